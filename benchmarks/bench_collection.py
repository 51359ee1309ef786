"""Environment steps per second of the collector, beside a bare loop over the same environments and policy.

    python benchmarks/bench_collection.py [--steps 40000] [--repeats 9]

CartPole, 8 environments in one process, a random policy and those of small agents of each kind. Prints one JSON line
per case: each is timed in turns with the bare loop, which keeps nothing; the collector checks, flags and stores every
row. `chunk` is how many rows of each environment are stored at once: the random prefill takes 64, and between two
updates it is what the updates' ratio asks for.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from measured_by import tell

import commands.quiet  # noqa: F401 - must come before torch

# isort: split
import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.restarting import Protection
from datamodules.played.collector import Collector
from datamodules.played.fields import field_of, observation_fields
from datamodules.played.policies import AgentPolicy, Policy, RandomPolicy
from datamodules.played.setting import make_environments
from datamodules.replay.prioritized import PrioritizedReplay
from datamodules.replay.sequences import LatestWindows, SequenceReplay
from datamodules.replay.streams import MakeReplay, ReplaySettings, StreamReplay
from modules.agent.agent import Agent
from modules.algorithms.a2c import A2C
from modules.algorithms.dreamer import DreamerV2
from modules.algorithms.r2d2 import R2D2
from modules.batch import Spaces
from modules.networks.blocks import DenseStack
from modules.networks.recurrent import LSTM, ActionValues
from modules.world_model.actor_critic import ActorCritic
from modules.world_model.latents import CategoricalLatent
from modules.world_model.world_model import WorldModel

ENVIRONMENTS = 8
SPEC = EnvironmentSpec("CartPole-v1")


def bare(policy: Policy, env: VectorEnv, steps: int) -> float:
    """Steps per second of a loop that keeps nothing."""
    observation, _ = env.reset(seed=0)
    first, reward = np.ones(ENVIRONMENTS, bool), np.zeros(ENVIRONMENTS, np.float32)
    start = time.perf_counter()
    for _ in range(steps // ENVIRONMENTS):
        action = policy(torch.from_numpy(observation), first, reward)
        observation, rewards, terminated, truncated, _ = env.step(action)
        first, reward = terminated | truncated, rewards.astype(np.float32)
    return steps / (time.perf_counter() - start)


def collected(policy: Policy, collector: Collector, replay: StreamReplay, steps: int, chunk: int) -> float:
    """Steps per second of the collector, with the rows in the replay."""
    start = time.perf_counter()
    for _ in range(steps // ENVIRONMENTS // chunk):
        replay.extend(collector.collect(chunk, policy))
    return steps / (time.perf_counter() - start)


TRUNK = partial(DenseStack, layers=2)


def world_model(spaces: Spaces) -> DreamerV2:
    """As in configs/dreamer/cartpole.yaml, with classes."""
    latent = partial(CategoricalLatent, groups=8, classes=8)
    world = partial(WorldModel, latent=latent, deter=64, hidden=64, units=64, trunk=TRUNK)
    return DreamerV2(spaces, world, partial(ActorCritic, units=64, trunk=TRUNK))


def recurrent_values(spaces: Spaces) -> R2D2:
    """As in configs/r2d2/cartpole_masked.yaml."""
    return R2D2(spaces, partial(ActionValues, units=64, trunk=TRUNK, memory=partial(LSTM, width=64)))


def actor_critic(spaces: Spaces) -> A2C:
    """As in configs/a2c/cartpole.yaml."""
    return A2C(spaces, trunk=TRUNK)


@dataclass(frozen=True)
class Case:
    """A policy, what keeps its rows, and the share of the steps that it is timed with."""

    name: str
    agent: Callable[[Spaces], Agent] | None
    replay: MakeReplay
    length: int
    chunk: int
    share: float = 1.0


CASES = [
    *(Case("random", None, SequenceReplay, 50, chunk) for chunk in (64, 8, 1)),
    Case("DreamerV2", world_model, SequenceReplay, 50, 1, 0.1),
    Case("R2D2", recurrent_values, partial(PrioritizedReplay, burn_in=10, overlap=20), 40, 1, 0.1),
    Case("A2C", actor_critic, LatestWindows, 33, 32, 0.1),
]


def measure(case: Case, spaces: Spaces, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Rates of one case."""
    autoreset = {"autoreset_mode": AutoresetMode.NEXT_STEP}
    raw = gym.make_vec(SPEC.id, ENVIRONMENTS, vectorization_mode="sync", vector_kwargs=autoreset)
    made = make_environments(SPEC, ENVIRONMENTS, vectorization="sync", seed=0, protection=Protection())
    collector = Collector(made, SPEC.id, 0)
    agent = None if case.agent is None else case.agent(spaces)

    def policy() -> Policy:
        return RandomPolicy(spaces.action, ENVIRONMENTS, 0) if agent is None else AgentPolicy(agent, ENVIRONMENTS)

    settings = ReplaySettings(
        folder, observation_fields(spaces.observation), field_of(spaces.action, "action"), streams=ENVIRONMENTS,
        capacity=100_000 // ENVIRONMENTS, margin=640, batch_size=ENVIRONMENTS,
        length=case.length, stored_width=0 if agent is None else agent.stored_width,
    )  # fmt: skip
    replay = case.replay(settings)
    steps, rates = int(options.steps * case.share), []
    for _ in range(options.repeats + 1):
        rates.append((bare(policy(), raw, steps), collected(policy(), collector, replay, steps, case.chunk)))
    plain, ours = zip(*rates[1:], strict=True)
    shares = [b / a for a, b in rates[1:]]
    return {
        "benchmark": f"collection, CartPole, {ENVIRONMENTS} environments",
        "policy": case.name,
        "chunk": case.chunk,
        "bare loop, steps/s": round(statistics.median(plain)),
        "collector, steps/s": round(statistics.median(ours)),
        "share": round(statistics.median(shares), 2),
        "lowest": round(min(shares), 2),
        "highest": round(max(shares), 2),
    }


def main() -> None:
    """Time every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    env = SPEC.make()
    spaces = Spaces(env.observation_space, env.action_space)
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(CASES):
            tell(measure(case, spaces, Path(folder) / str(number), options))


if __name__ == "__main__":
    main()
