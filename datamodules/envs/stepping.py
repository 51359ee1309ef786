"""The loops over `env.step` of parallel environments: streams of rows to learn from, and episodes by seed to count."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from datamodules.envs.contract import check_finite
from datamodules.envs.episode_infos import Numbers, vector_numbers
from datamodules.envs.restarting import RESTARTED

MAX_EPISODE_STEPS = 100_000
"""Steps of an episode, beyond which it is taken to have no end, where nothing else is asked for."""


# ------------------------------------------------------------------------------------------------------ streams of rows
class Row(NamedTuple):
    """One row of each of `N` streams: an observation, and what led to it.

    Attributes:
        observation: `[N, ...]`, or by key.
        reward: `[N]` reward received on arriving at the observation; 0 at a reset.
        is_first: `[N]` bool, the observation is the first of its episode.
        terminated: `[N]` bool, the observation is a terminal state.
        truncated: `[N]` bool, the episode was cut at this observation.
        info: infos of the vector environment.
    """

    observation: Any
    reward: np.ndarray
    is_first: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    info: dict[str, Any]


class RowStream:
    """Parallel environments as streams of rows, in which the reset of an episode is a row of its own.

    Args:
        env: `N` environments that reset in the step after an end.

    Attributes:
        ended: `[N]` bool, the newest row is the last of its episode, so that the next step resets that environment and
            ignores its action.
    """

    def __init__(self, env: VectorEnv) -> None:
        self.env = env
        self.ended = np.zeros(env.num_envs, bool)

    def reset(self, seed: int) -> Row:
        """First rows of all streams; environment `i` is reset with `seed + i`."""
        observation, info = self.env.reset(seed=seed)
        count = self.env.num_envs
        self.ended = np.zeros(count, bool)
        return Row(observation, np.zeros(count), np.ones(count, bool), self.ended, self.ended, info)

    def step(self, action: Any) -> Row:
        """The rows that `[N, ...]` actions lead to."""
        is_first = self.ended
        observation, reward, terminated, truncated, info = self.env.step(action)
        if is_first.any():  # some environments have their own vector form, which may reward a reset
            reward = np.where(is_first, 0.0, reward)
        self.ended = terminated | truncated
        return Row(observation, reward, is_first, terminated, truncated, info)


# ----------------------------------------------------------------------------------------------------- episodes by seed
class EpisodeStep(NamedTuple):
    """One step of each of `N` environments.

    Attributes:
        observation: `[N, ...]`, or by key; where an episode has ended, its true last one.
        reward: `[N]`.
        terminated: `[N]` bool.
        truncated: `[N]` bool.
        ended: `[N]` bool, the episode is over, and the environment waits for `SeededEpisodes.begin`.
        failed: `[N]` bool, it is over because the environment failed: it is to be played again.
        numbers: numbers that ended episodes have in their last infos, such as their success, by environment.
    """

    observation: Any
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    ended: np.ndarray
    failed: np.ndarray
    numbers: dict[int, Numbers]


class SeededEpisodes:
    """Whole episodes in parallel environments, each started by its own seed, as evaluations and datasets want them.

    Args:
        env: `N` environments in `Restarting` that reset when they are told to.
        name: name of the environment, for errors.
        limit: steps of an episode, at most.
        option: end of the error's advice, where there is an option for the limit.

    Raises:
        ValueError: the vector environment resets by itself.
    """

    def __init__(self, env: VectorEnv, name: str, limit: int = MAX_EPISODE_STEPS, option: str = "") -> None:
        if env.metadata["autoreset_mode"] is not AutoresetMode.DISABLED:
            raise ValueError(
                "the vector environment resets by itself, so that no episode could be given its seed: make it with "
                "AutoresetMode.DISABLED"
            )
        self.env = env
        self.name = name
        self.limit = limit
        self.option = option
        self.seeds: list[int] = []
        self.steps = np.zeros(env.num_envs, np.int64)

    def begin(self, seeds: Sequence[int], where: np.ndarray | None = None) -> Any:
        """Start episodes.

        Args:
            seeds: `N` seeds; those of episodes that go on stay as they are.
            where: `[N]` bool, the environments that start one; None for all.

        Returns:
            `[N, ...]` observations of all environments, or by key.
        """
        self.seeds = list(seeds)
        started = np.ones(self.env.num_envs, bool) if where is None else where
        self.steps[started] = 0
        every: Any = self.seeds  # one for each environment, which Gymnasium's declared type does not know of
        observation, info = self.env.reset(seed=every, options=None if where is None else {"reset_mask": where})
        self._failed(info)  # a reset that failed was repeated by itself, which is only told here
        return observation

    def step(self, action: Any, counted: np.ndarray | None = None) -> EpisodeStep:
        """One step of every environment.

        Args:
            action: `[N, ...]` actions.
            counted: `[N]` bool, the environments whose episodes count; None for all. What others return is not checked.

        Raises:
            ValueError: an observation or a reward is NaN or infinite, an episode has no end, or an environment failed
                more often than is forgiven; the message names environment and seed.
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.steps += 1
        self._check(observation, reward, np.ones(self.env.num_envs, bool) if counted is None else counted)
        ended = terminated | truncated
        failed, numbers = np.zeros(self.env.num_envs, bool), {}
        if ended.any():
            failed, numbers = self._failed(info), vector_numbers(info, ended)
        return EpisodeStep(observation, reward, terminated, truncated, ended, failed, numbers)

    def _check(self, observation: Any, reward: np.ndarray, counted: np.ndarray) -> None:
        """Refuse a step that makes an episode worthless."""
        check_finite(self.name, "reward", reward[None], counted, self.seeds)
        parts = observation.items() if isinstance(observation, Mapping) else [("", observation)]
        for key, values in parts:
            what = f"observation {key!r}" if key else "observation"
            check_finite(self.name, what, values[None], counted, self.seeds)
        too_long = counted & (self.steps > self.limit)
        if too_long.any():
            seed = self.seeds[int(np.argmax(too_long))]
            raise ValueError(
                f"environment {self.name!r}: the episode of seed {seed} is longer than {self.limit} steps: give it a "
                f"time limit, with the wrapper gymnasium.wrappers.TimeLimit for example{self.option}"
            )

    def _failed(self, info: Mapping[str, Any]) -> np.ndarray:
        """`[N]` bool, the episode ended by a failure that was forgiven; a warning says so."""
        errors = info.get(RESTARTED)
        if errors is None:
            return np.zeros(self.env.num_envs, bool)
        for text in filter(None, errors):
            warnings.warn(
                f"environment {self.name!r} failed and is made anew; the episode is played again: {text}", stacklevel=3
            )
        return np.array([text is not None for text in errors])
