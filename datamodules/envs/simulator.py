"""Copies of running environments, in which it can be looked ahead: the true model, at the cost of its steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from datamodules.envs.snapshot import SnapshotError, capture, restore


class SimulatedRows(NamedTuple):
    """Environments that go on from where others are.

    Attributes:
        environments: `R` copies, which are stepped in place.
        observation: `[R, D]` float32.
        ended: `[R]` bool, a terminal state was reached: nothing is stepped any more.
    """

    environments: list[gym.Env]
    observation: Tensor
    ended: np.ndarray


class Simulator:
    """A model by copies of the environments themselves, with their random generators: it foresees chance, too.

    Time limits are not seen: an episode that is cut goes on here.

    Args:
        make: makes an environment of the same specification.
        live: gives the `N` environments as they are now, in the order of the observations.

    Raises:
        ValueError: the state of such an environment cannot be copied.
    """

    opinions = 1

    def __init__(self, make: Callable[[], gym.Env], live: Callable[[], Sequence[gym.Env]]) -> None:
        self.make = make
        self.live = live
        self._copies: list[gym.Env] = []
        self._kept: list[tuple[dict[str, Any], Tensor, bool]] = []

    def check(self) -> None:
        """See that such environments can be copied, by one that has made a step.

        Raises:
            ValueError: they cannot; the message names the part.
        """
        env = self.make()
        try:
            env.reset(seed=0)
            env.action_space.seed(0)
            env.step(env.action_space.sample())
            self._copied([env], 1)
        finally:
            env.close()

    def begin(self, memory: Tensor, copies: int) -> SimulatedRows:
        """Copy every environment so many times, from its state of this moment."""
        self._kept.clear()
        rows = self._copied(self.live(), copies)
        return SimulatedRows(rows, memory.repeat_interleave(copies, 0).cpu(), np.zeros(len(rows), bool))

    def _copied(self, live: Sequence[gym.Env], copies: int) -> list[gym.Env]:
        """So many copies of each environment.

        Raises:
            ValueError: one cannot be copied.
        """
        while len(self._copies) < len(live) * copies:
            made = self.make()
            made.reset(seed=0)
            self._copies.append(made)
        rows = self._copies[: len(live) * copies]
        try:
            for i, env in enumerate(live):
                state = capture(env)
                for copy in rows[i * copies : (i + 1) * copies]:
                    restore(copy, state)
        except SnapshotError as error:
            raise ValueError(f"the environment cannot be copied, and so is no simulator: {error}") from error
        return rows

    def keep(self, state: SimulatedRows) -> Tensor:
        """Numbers `[R]` of what is remembered of the environments as they are now."""
        first = len(self._kept)
        ended = state.ended.tolist()
        taken = [{} if over else capture(env) for env, over in zip(state.environments, ended, strict=True)]
        self._kept += zip(taken, state.observation, ended, strict=True)
        return torch.arange(first, len(self._kept))

    def back(self, kept: Tensor) -> SimulatedRows:
        """The copies, put back to where they were when they were given these numbers."""
        rows, found = self._copies[: len(kept)], [self._kept[number] for number in kept.tolist()]
        for env, (taken, _, over) in zip(rows, found, strict=True):
            if not over:
                restore(env, taken)
        ended = np.array([over for _, _, over in found])
        return SimulatedRows(rows, torch.stack([observation for _, observation, _ in found]), ended)

    def view(self, state: SimulatedRows) -> Tensor:
        """The observations."""
        return state.observation

    def step(self, state: SimulatedRows, action: Tensor) -> tuple[SimulatedRows, Tensor, Tensor]:
        """One step of every copy that has not ended; the others stay, with reward 0."""
        observation, reward = state.observation.numpy().copy(), np.zeros(len(action), np.float32)
        ended = state.ended.copy()
        for i in np.flatnonzero(~state.ended).tolist():
            env = state.environments[i]
            space = env.action_space
            sent = np.asarray(action[i].cpu(), space.dtype)
            found, earned, over, _, _ = env.step(sent if sent.ndim else sent[()])
            observation[i], reward[i], ended[i] = found, earned, over
        after = SimulatedRows(state.environments, torch.from_numpy(observation), ended)
        return after, torch.from_numpy(reward), torch.from_numpy(ended & ~state.ended).float()

    def close(self) -> None:
        """Close the copies."""
        for env in self._copies:
            env.close()
        self._copies.clear()
