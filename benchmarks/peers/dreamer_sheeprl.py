"""One update of sheeprl's DreamerV2, for `bench_dreamer.py`; it runs in an environment that has sheeprl.

    .venv-peers/bin/python benchmarks/peers/dreamer_sheeprl.py SETTING < lines

`SETTING` is the JSON text of `bench_dreamer.Setting` with `device`, `threads`, `updates` and `version`. The networks,
the optimisers and the update are sheeprl's own, by its own configuration; only the batch is made here. The first line
printed describes it; then each line read is answered by the time of `updates` updates.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import gymnasium as gym
import hydra
import numpy as np
import torch
from omegaconf import OmegaConf
from sheeprl.algos.dreamer_v2.agent import build_agent
from sheeprl.algos.dreamer_v2.dreamer_v2 import train
from sheeprl.algos.dreamer_v2.utils import build_optimizer
from sheeprl.utils.utils import dotdict


def configuration(s: dict[str, Any]) -> Any:
    """The configuration that `sheeprl exp=dreamer_v2 ...` would run with."""
    overrides = {
        "env": "dummy",
        "env.num_envs": 1,
        "fabric.accelerator": s["device"],
        "num_threads": s["threads"],
        "float32_matmul_precision": "highest",
        "algo.per_rank_batch_size": s["batch"],
        "algo.per_rank_sequence_length": s["window"],
        "algo.horizon": s["horizon"],
        "algo.dense_units": s["units"],
        "algo.mlp_layers": s["layers"],
        "algo.world_model.stochastic_size": s["groups"],
        "algo.world_model.discrete_size": s["classes"],
        "algo.world_model.encoder.cnn_channels_multiplier": s["depth"],
        "algo.world_model.recurrent_model.recurrent_state_size": s["deter"],
        "algo.world_model.transition_model.hidden_size": s["hidden"],
        "algo.world_model.representation_model.hidden_size": s["hidden"],
        "algo.world_model.kl_free_nats": 0.0,
        "algo.world_model.use_continues": True,
        **{f"algo.cnn_keys.{part}": "[rgb]" if s["image"] else "[]" for part in ("encoder", "decoder")},
        **{f"algo.mlp_keys.{part}": "[]" if s["image"] else "[state]" for part in ("encoder", "decoder")},
        "algo.compile.enabled": s["version"] == "compiled",
    }
    with hydra.initialize_config_module("sheeprl.configs", version_base="1.3"):
        given = [f"{name}={value}" for name, value in overrides.items()]
        cfg = hydra.compose("config", ["exp=dreamer_v2", *given])
    return dotdict(OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))


def make_batch(s: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Random windows as sheeprl's buffer gives them: `[T, B, ...]` floats."""
    g = torch.Generator().manual_seed(0)
    shape = s["window"], s["batch"]
    if s["image"]:
        observation = {"rgb": torch.randint(0, 256, (*shape, 1, 64, 64), generator=g)}
    else:
        observation = {"state": torch.randn(*shape, s["width"], generator=g)}
    choices = torch.randint(0, s["actions"], shape, generator=g)
    batch = {
        **observation,
        "actions": torch.nn.functional.one_hot(choices, s["actions"]),
        "rewards": torch.randn(*shape, 1, generator=g),
        "is_first": torch.rand(*shape, 1, generator=g) < 0.02,
        "terminated": torch.rand(*shape, 1, generator=g) < 0.02,
        "truncated": torch.zeros(*shape, 1),
    }
    return {name: x.to(s["device"]).float() for name, x in batch.items()}


def make_update(s: dict[str, Any], cfg: Any) -> tuple[Callable[[], None], int]:
    """A function that does one whole update, and the number of parameters that it trains."""
    fabric = hydra.utils.instantiate(cfg.fabric, _convert_="all")
    fabric.launch()
    box = gym.spaces.Box(0, 255, (1, 64, 64), np.uint8) if s["image"] else gym.spaces.Box(-9, 9, (s["width"],))
    spaces = gym.spaces.Dict({"rgb" if s["image"] else "state": box})
    world_model, actor, critic, target_critic, _ = build_agent(fabric, (s["actions"],), False, cfg, spaces)
    networks = {"world_model": world_model, "actor": actor, "critic": critic}
    made = (build_optimizer(cfg.algo[name].optimizer, network.parameters()) for name, network in networks.items())
    optimizers = fabric.setup_optimizers(*made)
    batch = make_batch(s)

    def update() -> None:
        # No aggregator: as with sheeprl's `metric.log_level=0`, nothing is computed for the log alone.
        train(fabric, *networks.values(), target_critic, *optimizers, dict(batch), None, cfg, (s["actions"],))

    return update, sum(p.numel() for network in networks.values() for p in network.parameters())


def main() -> None:
    """Describe, then time one round per line."""
    s = json.loads(sys.argv[1])
    warnings.simplefilter("ignore")
    cfg = configuration(s)
    torch.set_num_threads(s["threads"])
    # What sheeprl's command sets before it starts an algorithm.
    torch.set_float32_matmul_precision(cfg.float32_matmul_precision)
    torch.distributions.Distribution.set_default_validate_args(cfg.distribution.validate_args)
    torch.backends.cudnn.benchmark = cfg.torch_backends_cudnn_benchmark
    update, parameters = make_update(s, cfg)
    for _ in range(3):
        update()
    versions = {name: version(name) for name in ("sheeprl", "torch")}
    print(json.dumps({"parameters": parameters, "versions": versions}), flush=True)
    for _ in sys.stdin:
        begun, cpu = time.perf_counter(), time.process_time()
        for _ in range(s["updates"]):
            update()
        if s["device"] == "cuda":
            torch.cuda.synchronize()
        spent = time.perf_counter() - begun, time.process_time() - cpu
        print(json.dumps([1e3 * seconds / s["updates"] for seconds in spent]), flush=True)


if __name__ == "__main__":
    main()
