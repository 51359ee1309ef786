"""One update of sheeprl's DreamerV2, for `bench_dreamer.py`; it runs in an environment that has sheeprl.

    .venv-peers/bin/python benchmarks/peers/dreamer_sheeprl.py SETTING < lines

`SETTING` is the JSON text of `bench_dreamer.Setting` with `device`, `threads`, `updates`, `version` and `start`, a file
of weights and a batch. The networks, the optimisers and the update are sheeprl's own, by its own configuration. The
first line printed describes it, and tells its first update; then each line read is answered by the time of `updates`
updates.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any
from unittest.mock import patch

import gymnasium as gym
import hydra
import numpy as np
import torch
from omegaconf import OmegaConf
from sheeprl.algos.dreamer_v2.agent import build_agent
from sheeprl.algos.dreamer_v2.dreamer_v2 import train
from sheeprl.algos.dreamer_v2.utils import build_optimizer
from sheeprl.utils.utils import dotdict
from torch.distributions import Normal, OneHotCategorical


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


PARTS = {
    "world_model.encoder": "world_model/encoder", "world_model.rssm.input": "world_model/rssm.recurrent_model.mlp",
    "world_model.rssm.cell": "world_model/rssm.recurrent_model.rnn",
    "world_model.rssm.prior": "world_model/rssm.transition_model",
    "world_model.rssm.posterior": "world_model/rssm.representation_model",
    "world_model.decoder": "world_model/observation_model", "world_model.reward": "world_model/reward_model",
    "world_model.discount": "world_model/continue_model", "behaviour.actor": "actor/", "behaviour.critic": "critic/",
}  # fmt: skip
"""Network and first words of the names of its parameters, by the names of `dreamer_start.py`."""

TOLD = {
    "observation": "Loss/observation_loss", "reward": "Loss/reward_loss", "discount": "Loss/continue_loss",
    "kl": "Loss/state_loss", "actor": "Loss/policy_loss", "critic": "Loss/value_loss",
    "model_norm": "Grads/world_model", "actor_norm": "Grads/actor", "critic_norm": "Grads/critic",
}  # fmt: skip
"""Names of what is logged, by the names of `dreamer_start.py`."""


@torch.no_grad()
def fill(networks: dict[str, torch.nn.Module], start: Any) -> None:
    """Give the networks the weights of the file, layer by layer.

    Raises:
        ValueError: there are not as many layers, or one has another shape.
    """
    for ours, theirs in PARTS.items():
        network, _, words = theirs.partition("/")
        named = ((name.replace("_forward_module.", ""), x) for name, x in networks[network].named_parameters())
        mine = [x for name, x in named if name.startswith(words)]
        given = [start[f"{ours}/{i}"] for i in range(sum(key.startswith(f"{ours}/") for key in start.files))]
        for x, array in zip(mine, given, strict=True):
            if x.shape != array.shape:
                raise ValueError(f"a layer of {theirs} has the shape {tuple(x.shape)}, of {ours} {array.shape}")
            x.copy_(torch.from_numpy(array))


def make_batch(s: dict[str, Any], start: Any) -> dict[str, torch.Tensor]:
    """The windows of the file as sheeprl's buffer gives them: `[T, B, ...]` floats."""
    seen = torch.from_numpy(start["batch/observation"])
    observation = {"rgb": seen.permute(0, 1, 4, 2, 3)} if s["image"] else {"state": seen}
    choices = torch.from_numpy(start["batch/previous_action"])
    flags = {"is_first": "is_first", "rewards": "reward", "terminated": "terminated", "truncated": "truncated"}
    batch = {
        **observation,
        "actions": torch.nn.functional.one_hot(choices, s["actions"]),
        **{theirs: torch.from_numpy(start[f"batch/{ours}"])[..., None] for theirs, ours in flags.items()},
    }
    return {name: x.to(s["device"]).float() for name, x in batch.items()}


class Log:
    """Takes what sheeprl logs."""

    disabled = False

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def update(self, name: str, value: Any) -> None:
        """Keep a value."""
        self.values[name] = float(value)


@contextmanager
def chosen(share: float) -> Iterator[None]:
    """Within, samples are the class at which the sum of probabilities passes a share, and losses lack a constant."""

    def sample(self: OneHotCategorical, shape: torch.Size = torch.Size()) -> torch.Tensor:  # noqa: B008 - as theirs
        passed = self.probs.cumsum(-1)
        index = (passed[..., :-1] <= share * passed[..., -1:]).sum(-1)
        return torch.nn.functional.one_hot(index, self.probs.shape[-1]).to(self.probs)

    def log_prob(self: Normal, value: torch.Tensor) -> torch.Tensor:
        return -0.5 * ((value - self.loc) / self.scale) ** 2

    with patch.object(OneHotCategorical, "sample", sample), patch.object(Normal, "log_prob", log_prob):
        yield


def make_update(s: dict[str, Any], cfg: Any) -> tuple[Callable[[], None], int, dict[str, float]]:
    """A function that does one whole update, the number of parameters that it trains, and what the first one says."""
    fabric = hydra.utils.instantiate(cfg.fabric, _convert_="all")
    fabric.launch()
    box = gym.spaces.Box(0, 255, (1, 64, 64), np.uint8) if s["image"] else gym.spaces.Box(-9, 9, (s["width"],))
    spaces = gym.spaces.Dict({"rgb" if s["image"] else "state": box})
    world_model, actor, critic, target_critic, _ = build_agent(fabric, (s["actions"],), False, cfg, spaces)
    networks = {"world_model": world_model, "actor": actor, "critic": critic}
    made = (build_optimizer(cfg.algo[name].optimizer, network.parameters()) for name, network in networks.items())
    optimizers = fabric.setup_optimizers(*made)
    start = np.load(s["start"])
    fill(networks, start)
    target_critic.load_state_dict(critic.state_dict())
    batch = make_batch(s, start)

    def update(log: Log | None = None) -> None:
        # No aggregator: as with sheeprl's `metric.log_level=0`, nothing is computed for the log alone.
        train(fabric, *networks.values(), target_critic, *optimizers, dict(batch), log, cfg, (s["actions"],))

    # The update that is compared is an eager one: what samples in it must not be compiled.
    log, compiles = Log(), cfg.algo.compile.enabled
    cfg.algo.compile.enabled = False
    with chosen(float(start["share"])):
        update(log)
    cfg.algo.compile.enabled = compiles
    told = {name: log.values[theirs] for name, theirs in TOLD.items()}
    return update, sum(p.numel() for network in networks.values() for p in network.parameters()), told


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
    update, parameters, told = make_update(s, cfg)
    for _ in range(3):
        update()
    versions = {name: version(name) for name in ("sheeprl", "torch")}
    print(json.dumps({"parameters": parameters, "versions": versions, "told": told}), flush=True)
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
