"""Environment steps per second of the collector, beside a bare loop over the same environments and policy.

    python benchmarks/bench_collection.py [--steps 40000] [--repeats 9]

CartPole, 8 copies in one process, a random policy and a small world model's. Prints one JSON line per case: each is
timed in turns with the bare loop, which keeps nothing; the collector checks, flags and stores every row. `chunk` is
how many rows of each copy are stored at once: the random prefill takes 64, and between two updates it is what the
updates' ratio asks for.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import commands.quiet  # noqa: F401 - must come before torch

# isort: split
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from datamodules.collector import Collector, field_of, make_environments, observation_fields
from datamodules.envs.make import EnvironmentSpec
from datamodules.policies import AgentPolicy, Policy, RandomPolicy
from datamodules.sequences import SequenceReplay
from modules.algorithms.dreamer import DreamerV2
from modules.algorithms.imagination import ActorCritic
from modules.batch import Spaces
from modules.networks.blocks import DenseStack
from modules.networks.latent import CategoricalLatent
from modules.networks.world_model import WorldModel

COPIES = 8
SPEC = EnvironmentSpec("CartPole-v1")


def bare(policy: Policy, env: SyncVectorEnv, steps: int) -> float:
    """Steps per second of a loop that keeps nothing."""
    observation, _ = env.reset(seed=0)
    first = torch.ones(COPIES, dtype=torch.bool).numpy()
    start = time.perf_counter()
    for _ in range(steps // COPIES):
        observation, _, terminated, truncated, _ = env.step(policy(torch.from_numpy(observation), first))
        first = terminated | truncated
    return steps / (time.perf_counter() - start)


def collected(policy: Policy, collector: Collector, replay: SequenceReplay, steps: int, chunk: int) -> float:
    """Steps per second of the collector, with the rows in the replay."""
    start = time.perf_counter()
    for _ in range(steps // COPIES // chunk):
        replay.extend(collector.collect(chunk, policy))
    return steps / (time.perf_counter() - start)


def small_agent(spaces: Spaces) -> DreamerV2:
    """A world model as in configs/dreamer/cartpole.yaml, with classes."""
    trunk = partial(DenseStack, layers=2)
    latent = partial(CategoricalLatent, groups=8, classes=8)
    world = partial(WorldModel, latent=latent, deter=64, hidden=64, units=64, trunk=trunk)
    return DreamerV2(spaces, world, partial(ActorCritic, units=64, trunk=trunk))


def main() -> None:
    """Time every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    env = SPEC.make()
    spaces = Spaces(env.observation_space, env.action_space)
    agent = small_agent(spaces)
    cases = [("random", partial(RandomPolicy, spaces.action, COPIES, 0), chunk, 1) for chunk in (64, 8, 1)]
    cases += [("world model", partial(AgentPolicy, agent, COPIES), 1, 10)]
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, make_policy, chunk, fewer) in enumerate(cases):
            raw = SPEC.make_vector(COPIES, seed=0, autoreset=AutoresetMode.NEXT_STEP)
            made = make_environments(SPEC, COPIES, vectorization="sync", seed=0, max_restarts=3)
            collector = Collector(made, SPEC.id, 0)
            replay = SequenceReplay(
                Path(folder) / str(number), observation_fields(spaces.observation), field_of(spaces.action, "action"),
                streams=COPIES, capacity=100_000 // COPIES, margin=64, batch_size=16, length=50, prioritize_ends=False,
                seed=0,
            )  # fmt: skip
            steps, rates = options.steps // fewer, []
            for _ in range(options.repeats + 1):
                rates.append(
                    (bare(make_policy(), raw, steps), collected(make_policy(), collector, replay, steps, chunk))
                )
            plain, ours = zip(*rates[1:], strict=True)
            shares = [b / a for a, b in rates[1:]]
            record = {
                "benchmark": "collection, CartPole, 8 copies",
                "policy": name,
                "chunk": chunk,
                "bare loop, steps/s": round(statistics.median(plain)),
                "collector, steps/s": round(statistics.median(ours)),
                "share": round(statistics.median(shares), 2),
                "lowest": round(min(shares), 2),
                "highest": round(max(shares), 2),
            }
            print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
