"""What chooses the actions while data are collected: chance, or the agent that is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from modules.functional.recurrent_state import restart

Observation = Tensor | dict[str, Tensor]
Policy = Callable[[Observation, np.ndarray], np.ndarray]
"""Observations `[N, ...]`, and which of them are the first of an episode `[N]`, to actions `[N, ...]`."""


class Acting(Protocol):
    """What acts: an agent."""

    @property
    def device(self) -> torch.device:
        """Device of the observations that it takes."""

    def initial_state(self, batch: int) -> Any:
        """Recurrent state for `batch` fresh episodes."""

    def act(self, observation: Any, state: Any = None, *, explore: bool) -> tuple[Tensor, Any]:
        """Actions and the next state."""


class RandomPolicy:
    """Samples the action space; all its randomness is in one generator."""

    def __init__(self, space: gym.Space, count: int, seed: int) -> None:
        self.space = gym.vector.utils.batch_space(space, count)
        self.space.seed(seed)

    def __call__(self, observation: Observation, first: np.ndarray) -> np.ndarray:
        return self.space.sample()

    def state(self) -> dict[str, Any]:
        """State of the generator."""
        return dict(self.space.np_random.bit_generator.state)

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state`."""
        self.space.np_random.bit_generator.state = dict(state)


class AgentPolicy:
    """An agent that explores, with the recurrent states of its episodes.

    Raises:
        FloatingPointError: an action is not finite.
    """

    def __init__(self, agent: Acting, count: int) -> None:
        self.agent, self.count = agent, count
        self.recurrent = agent.initial_state(count)

    def __call__(self, observation: Observation, first: np.ndarray) -> np.ndarray:
        device = self.agent.device
        with torch.no_grad():
            if self.recurrent is not None and first.any():
                fresh = self.agent.initial_state(self.count)
                self.recurrent = restart(self.recurrent, fresh, torch.from_numpy(first).to(device))
            seen = {k: v.to(device) for k, v in observation.items()} if isinstance(observation, dict) else None
            action, self.recurrent = self.agent.act(
                observation.to(device) if isinstance(observation, Tensor) else seen, self.recurrent, explore=True
            )
        sent = action.cpu().numpy()
        if sent.dtype.kind == "f" and not np.isfinite(sent).all():
            raise FloatingPointError("the agent's action is not finite: training diverged; lower the learning rates")
        return sent

    def state(self) -> list[Any]:
        """The recurrent states, as a list of what they are nested of."""
        return [leaf.cpu() if isinstance(leaf, Tensor) else leaf for leaf in tree_flatten(self.recurrent)[0]]

    def load_state(self, state: list[Any]) -> None:
        """Inverse of `state`."""
        device = self.agent.device
        leaves = [leaf.to(device) if isinstance(leaf, Tensor) else leaf for leaf in state]
        self.recurrent = tree_unflatten(leaves, tree_flatten(self.recurrent)[1])
