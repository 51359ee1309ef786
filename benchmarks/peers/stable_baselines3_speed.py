"""One update of SAC of stable-baselines3, for `bench_sac_speed.py`; it runs in an environment that has that library.

    .venv-sb3/bin/python benchmarks/peers/stable_baselines3_speed.py SETTING < lines

`SETTING` is as in `d3rlpy_speed.py`, and so is what is printed. Hidden widths are given, all else is the library's
default. Batches are tensors already, and a round is one call of `train`: it is spared the step from numpy, and a log of
every update.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from typing import Any

import torch
from one_batch import OneBatch, Spaces
from stable_baselines3 import SAC
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import ReplayBufferSamples


def make_model(s: dict[str, Any]) -> SAC:
    """An agent whose replay always gives the same random batch of the setting's sizes."""
    policy = {"net_arch": list(s["hidden"])}
    env = Spaces(s["width"], s["actions"])
    model = SAC("MlpPolicy", env, seed=0, buffer_size=1, device=s["device"], policy_kwargs=policy)
    model.set_logger(Logger(None, []))
    g, rows = torch.Generator().manual_seed(0), s["batch"]
    tensors = [torch.randn(rows, s["width"], generator=g), torch.tanh(torch.randn(rows, s["actions"], generator=g))]
    tensors += [torch.randn(rows, s["width"], generator=g), (torch.rand(rows, 1, generator=g) < 0.02).float()]
    tensors += [torch.randn(rows, 1, generator=g)]
    model.replay_buffer = OneBatch(ReplayBufferSamples(*(x.to(s["device"]) for x in tensors)))
    return model


def main() -> None:
    """Describe, then time one round per line."""
    s = json.loads(sys.argv[1])
    torch.set_num_threads(s["threads"])
    model = make_model(s)
    model.train(10, s["batch"])
    trained = [*model.actor.parameters(), *model.critic.parameters(), model.log_ent_coef]
    versions = {name: version(name) for name in ("stable_baselines3", "torch")}
    print(json.dumps({"parameters": sum(p.numel() for p in trained), "versions": versions}), flush=True)
    for _ in sys.stdin:
        begun, cpu = time.perf_counter(), time.process_time()
        model.train(s["updates"], s["batch"])
        if s["device"] == "cuda":
            torch.cuda.synchronize()
        spent = time.perf_counter() - begun, time.process_time() - cpu
        print(json.dumps([1e3 * seconds / s["updates"] for seconds in spent]), flush=True)


if __name__ == "__main__":
    main()
