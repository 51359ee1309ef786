"""One update of an offline algorithm of d3rlpy, for `bench_offline.py`; it runs in an environment that has d3rlpy.

    .venv-peers/bin/python benchmarks/peers/d3rlpy_speed.py SETTING < lines

`SETTING` is the JSON text of the fields of `bench_offline.Setting` and `Algorithm`, with `device`, `threads`,
`algorithm` and `version`. Hidden widths are given, all else is d3rlpy's default. Batches are tensors already: d3rlpy is
spared the step from numpy. The first line printed describes it; then each line read is answered by the time of
`updates` updates.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import d3rlpy
import torch
from d3rlpy.algos import CQLConfig, DiscreteBCConfig, IQLConfig, TD3PlusBCConfig
from d3rlpy.models.encoders import VectorEncoderFactory
from d3rlpy.torch_utility import TorchMiniBatch

ACTOR_CRITIC = ["actor_encoder_factory", "critic_encoder_factory"]
CONFIGS: dict[str, tuple[Any, list[str]]] = {
    "discrete_bc": (DiscreteBCConfig, ["encoder_factory"]),
    "td3_plus_bc": (TD3PlusBCConfig, ACTOR_CRITIC),
    "iql": (IQLConfig, [*ACTOR_CRITIC, "value_encoder_factory"]),
    "cql": (CQLConfig, ACTOR_CRITIC),
}


def make_batch(s: dict[str, Any], device: str) -> TorchMiniBatch:
    """Random transitions of the setting's sizes; the actions of a discrete algorithm are numbers."""
    g = torch.Generator().manual_seed(0)
    rows = s["batch"]
    actions = torch.tanh(torch.randn(rows, s["actions"], generator=g))
    if s["discrete"]:
        actions = torch.randint(s["actions"], (rows, 1), generator=g)
    tensors = {
        "observations": torch.randn(rows, s["width"], generator=g),
        "actions": actions,
        "rewards": torch.randn(rows, 1, generator=g),
        "next_observations": torch.randn(rows, s["width"], generator=g),
        "next_actions": torch.zeros(rows, s["actions"]),
        "returns_to_go": torch.zeros(rows, 1),
        "terminals": (torch.rand(rows, 1, generator=g) < 0.02).float(),
        "intervals": torch.ones(rows, 1),
    }
    return TorchMiniBatch(**{name: x.to(device) for name, x in tensors.items()}, device=device)


def make_update(s: dict[str, Any]) -> tuple[Callable[[], None], int]:
    """A function that does one whole update, and the number of parameters that it trains."""
    d3rlpy.seed(0)
    device = f"{s['device']}:0"
    config, encoders = CONFIGS[s["algorithm"]]
    sizes = {name: VectorEncoderFactory(s["hidden"]) for name in encoders}
    algorithm = config(**sizes, compile_graph=s["version"] == "compiled").create(device=device)
    algorithm.create_impl((s["width"],), s["actions"])
    batch = make_batch(s, device)
    steps = 0

    def update() -> None:
        nonlocal steps
        algorithm.impl.update(batch, steps)
        steps += 1

    modules = algorithm.impl.modules.get_torch_modules()
    trained = [module for name, module in modules.items() if not name.startswith("targ_")]
    return update, sum(p.numel() for module in trained for p in module.parameters())


def main() -> None:
    """Describe, then time one round per line."""
    s = json.loads(sys.argv[1])
    torch.set_num_threads(s["threads"])
    update, parameters = make_update(s)
    for _ in range(10):
        update()
    versions = {name: version(name) for name in ("d3rlpy", "torch")}
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
