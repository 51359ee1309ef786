"""Small agents and batches for tests of ATAC."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch
from grouped import grouped

from modules.agent.agent import Agent
from modules.agent.warm_start import WarmStart
from modules.algorithms.atac import ATAC
from modules.batch import Spaces, Transition

SPACES = Spaces(gym.spaces.Box(-np.inf, np.inf, (4,)), gym.spaces.Box(-1.0, 1.0, (2,)))

NUMBERED = Spaces(SPACES.observation, gym.spaces.Discrete(3, start=1))


def make_batch(rows: int = 32, seed: int = 0) -> Transition:
    g = torch.Generator().manual_seed(seed)
    done = torch.rand(rows, generator=g) < 0.2
    return Transition(
        torch.randn(rows, 4, generator=g),
        2.0 * torch.rand(rows, 2, generator=g) - 1.0,
        torch.randn(rows, generator=g),
        torch.randn(rows, 4, generator=g),
        done,
        torch.zeros(rows, dtype=torch.bool),
        torch.randn(rows, 4, generator=g),
    )


def make_numbered_batch(rows: int = 32, seed: int = 0) -> Transition:
    actions = torch.randint(3, (rows,), generator=torch.Generator().manual_seed(seed))
    return make_batch(rows, seed)._replace(action=1 + actions)


def make_agent(spaces: Spaces = SPACES, **arguments: object) -> ATAC:
    """Names with a dot are fields of a group of arguments, such as `critic.target_rate`."""
    settings: dict = {"hidden": [16, 16], "warm_start": WarmStart(0), "actor_lr": 1e-3}
    return ATAC(spaces, **grouped(ATAC, settings, arguments))


def run(agent: Agent, updates: int, batches: int = 10, rows: int = 32) -> None:
    for i in range(updates):
        agent.update(make_batch(rows, seed=i % batches))
        agent.advance()


def snapshot(module: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def same(before: list[torch.Tensor], module: torch.nn.Module) -> bool:
    return all(torch.equal(b, p) for b, p in zip(before, module.parameters(), strict=True))
