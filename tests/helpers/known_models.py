"""Models that lookahead is tried in, of which the answers are known."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor


class LinearQuadratic:
    """`x' = x + u` at the cost `x^2 + u^2`, seen by one or more models that each push with a strength of their own."""

    def __init__(self, *strengths: float) -> None:
        self.strengths = strengths or (1.0,)

    @property
    def opinions(self) -> int:
        return len(self.strengths)

    def begin(self, memory: Tensor, copies: int) -> Tensor:
        return memory.repeat_interleave(copies, 0).repeat(self.opinions, 1)

    def view(self, state: Tensor) -> Tensor:
        return state

    def step(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        strength = torch.tensor(self.strengths).to(state).repeat_interleave(len(state) // self.opinions)[:, None]
        return state + strength * action, -(state.square() + action.square())[:, 0], torch.zeros(len(state))


ACTIONS = gym.spaces.Box(-10.0, 10.0, (1,), np.float64)


def riccati(k: float) -> float:
    """One value iteration of the cost `k x^2`."""
    return 1.0 + k / (1.0 + k)


def cost_of(gain: float) -> float:
    """`K` of the policy `u = -gain x`, whose cost is `K x^2`."""
    return (1.0 + gain**2) / (1.0 - (1.0 - gain) ** 2)


OPTIMUM = (1.0 + 5.0**0.5) / 2.0


def at_rest(x: Tensor) -> Tensor:
    """The base policy that does nothing."""
    return torch.zeros_like(x)


def lean(observation: Tensor) -> Tensor:
    """CartPole's heuristic: push towards the side that the pole leans to."""
    return (observation[:, 2] > 0).long()
