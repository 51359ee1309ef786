"""Policies that choose actions while data are collected: the random one, and that of the agent in training."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from modules.batch import ACTION_MASK
from modules.contracts import Acting
from modules.functional.recurrent_state import leaves_of, restart, with_leaves
from modules.wall_time import timed

Observation = Tensor | dict[str, Tensor]


class Policy(ABC):
    """Chooses actions for `N` streams.

    Attributes:
        stored_width: width `W` of the state that a replay stores with every row; 0 for none.
    """

    stored_width: int = 0

    @abstractmethod
    def __call__(self, observation: Observation, first: np.ndarray, reward: np.ndarray) -> np.ndarray:
        """Actions.

        Args:
            observation: `[N, ...]`, or by key.
            first: `[N]` bool, the observation is the first of its episode.
            reward: `[N]` float32 received on arriving at the observation; 0 at a reset.

        Returns:
            `[N, ...]` actions in the environment's units.
        """

    def stored_state(self, first: np.ndarray) -> np.ndarray:
        """The state that a replay stores with the row that the latest actions led to.

        Args:
            first: `[N]` bool, the row is the first of its episode: no action led to it.

        Returns:
            `[N, W]` float32.
        """
        raise NotImplementedError


class RandomPolicy(Policy):
    """Samples the action space, or where the observation says which numbered actions are legal, those alone.

    It is the one source of random actions: before training, in datasets, in evaluations and for statistics. All its
    randomness is in one generator. Which actions are legal is read from the part `action_mask` of a Dict observation,
    `[A]` zeros and ones; where none is legal, as when an episode is over, the first one is given.

    Args:
        space: action space of one environment.
        count: number of environments `N` that are stepped together; None for one that is stepped by itself, whose
            actions have no leading axis.
        seed: seed of the generator.
    """

    def __init__(self, space: gym.Space, count: int | None, seed: int | np.random.SeedSequence) -> None:
        self.single = space
        # A copy, since the environment may draw from its own space.
        self.space = copy.deepcopy(space) if count is None else gym.vector.utils.batch_space(space, count)
        self.generator.bit_generator.state = np.random.default_rng(seed).bit_generator.state

    @property
    def generator(self) -> np.random.Generator:
        """Source of the actions; others that must be repeatable together with them may draw from it, too."""
        return self.space.np_random

    def __call__(self, observation: Any = None, first: Any = None, reward: Any = None) -> np.ndarray:
        legal = _legal(self.single, observation)
        if legal is None:
            return self.space.sample()
        chosen = np.where(legal, self.generator.random(legal.shape), -1.0).argmax(-1)  # uniform among the legal ones
        return getattr(self.single, "start", 0) + chosen

    def state_dict(self) -> dict[str, Any]:
        """State of the generator."""
        return dict(self.generator.bit_generator.state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.generator.bit_generator.state = dict(state)


def _legal(space: gym.Space, observation: Any) -> np.ndarray | None:
    """`[..., A]` bool, which numbered actions an observation says to be legal; None where it says nothing."""
    mask = observation.get(ACTION_MASK) if isinstance(observation, Mapping) else None
    if mask is None or not isinstance(space, gym.spaces.Discrete) or mask.shape[-1:] != (space.n,):
        return None
    return np.asarray(mask) > 0


class AgentPolicy(Policy):
    """An agent, with the recurrent states of its episodes.

    The agent gets the rewards of its actions before it acts again.

    Args:
        agent: agent that acts.
        count: number of environments `N`.
        explore: whether the agent explores.

    Raises:
        FloatingPointError: an action is not finite.
    """

    def __init__(self, agent: Acting, count: int, explore: bool = True) -> None:
        self.agent = agent
        self.count = count
        self.explore = explore
        self.recurrent = agent.initial_state(count)
        self.stored_width = agent.stored_width

    @timed("acting")
    def __call__(self, observation: Observation, first: np.ndarray, reward: np.ndarray) -> np.ndarray:
        device = self.agent.device
        if isinstance(observation, dict):
            moved: Observation = {key: value.to(device) for key, value in observation.items()}
        else:
            moved = observation.to(device)
        with torch.no_grad():
            if self.recurrent is not None:
                rewarded = self.agent.rewarded(self.recurrent, torch.from_numpy(reward).to(device))
                self.recurrent = self._restarted(rewarded, first)
            action, self.recurrent = self.agent.act(moved, self.recurrent, explore=self.explore)
        sent = action.cpu().numpy()
        if sent.dtype.kind == "f" and not np.isfinite(sent).all():
            raise FloatingPointError("the agent's action is not finite: training diverged; lower the learning rates")
        return sent

    def _restarted(self, state: Any, first: np.ndarray) -> Any:
        if not first.any():
            return state
        return restart(state, self.agent.initial_state(self.count), torch.from_numpy(first).to(self.agent.device))

    def stored_state(self, first: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self.agent.stored_state(self._restarted(self.recurrent, first)).float().cpu().numpy()

    def state_dict(self) -> dict[str, Any]:
        """The recurrent states, as a list of the tensors and other values in them."""
        leaves = leaves_of(self.recurrent)
        return {"recurrent": [leaf.cpu() if isinstance(leaf, Tensor) else leaf for leaf in leaves]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        device = self.agent.device
        leaves = [leaf.to(device) if isinstance(leaf, Tensor) else leaf for leaf in state["recurrent"]]
        self.recurrent = with_leaves(self.recurrent, leaves)
