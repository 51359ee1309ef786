"""Small ensembles of dynamics, and steps of a linear system that they learn."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch

from modules.algorithms.dynamics_ensemble import DynamicsEnsemble
from modules.batch import Spaces, Transition

SPACES = Spaces(gym.spaces.Box(-np.inf, np.inf, (2,)), gym.spaces.Box(-2.0, 2.0, (1,)))
NUMBERED = Spaces(SPACES.observation, gym.spaces.Discrete(3, start=1))
MATRIX = torch.tensor([[0.9, 0.1], [-0.2, 0.8]])
PUSH = torch.tensor([0.0, 0.5])
NOISE = 0.05


def make(spaces: Spaces = SPACES, **arguments: Any) -> DynamicsEnsemble:
    return DynamicsEnsemble(spaces, **{"seeds": 2, "hidden": [16], "patience": None, **arguments})


def linear(rows: int = 64, seed: int = 0) -> Transition:
    """Steps `x' = A x + b a`, whose first number is noisy; the reward is `x[0] - a`; far to the right all ends."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 2, generator=g)
    action = 4.0 * torch.rand(rows, 1, generator=g) - 2.0
    following = x @ MATRIX.T + action * PUSH
    following[:, 0] += NOISE * torch.randn(rows, generator=g)
    return Transition(x, action, x[:, 0] - action[:, 0], following, x[:, 0] > 1.0, torch.zeros(rows, dtype=torch.bool))


def numbered(rows: int = 64, seed: int = 0) -> Transition:
    """The same, by the numbers 1, 2 and 3 of the actions -1, 0 and 1."""
    batch = linear(rows, seed)
    action = batch.action[:, 0].round().clamp(-1, 1)
    following = batch.observation @ MATRIX.T + action[:, None] * PUSH
    return batch._replace(action=action.long() + 2, next_observation=following, reward=batch.observation[:, 0] - action)
