"""Streams of rows and episodes by seed, as parallel environments are stepped."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from datamodules.envs.stepping import RowStream, SeededEpisodes


class Countdown(gym.Env):
    """Observes its seed and the steps that are left; each step is rewarded by 1."""

    observation_space = gym.spaces.Box(-1.0, 1000.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.seed = -1 if seed is None else seed
        self.left = 2 + max(self.seed, 0) % 3
        return self._observation(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        return self._observation(), 1.0, self.left == 0, False, {}

    def _observation(self) -> np.ndarray:
        return np.array([self.seed, self.left], np.float32)


class RewardedReset(gym.vector.VectorWrapper):
    """A vector form that rewards resets, as one of its own may."""

    def step(self, actions: Any) -> tuple[Any, ...]:
        observation, reward, *rest = self.env.step(actions)
        return observation, np.where(reward == 0, 7.0, reward), *rest


def make(mode: AutoresetMode) -> SyncVectorEnv:
    return SyncVectorEnv([Countdown, Countdown], autoreset_mode=mode)


def test_a_reset_is_a_row_without_reward() -> None:
    stream = RowStream(RewardedReset(make(AutoresetMode.NEXT_STEP)))
    rows = [stream.reset(seed=0), *(stream.step(np.zeros(2, np.int64)) for _ in range(4))]
    left = [[2, 3], [1, 2], [0, 1], [2, 0], [1, 2]]  # the episodes of the seeds 0 and 1 have 2 and 3 steps
    np.testing.assert_array_equal([row.observation[:, 1] for row in rows], left)
    first = np.array([[1, 1], [0, 0], [0, 0], [1, 0], [0, 1]], bool)
    np.testing.assert_array_equal([row.is_first for row in rows], first)
    np.testing.assert_array_equal([row.reward for row in rows], np.where(first, 0.0, 1.0))
    np.testing.assert_array_equal([row.terminated for row in rows], np.array(left) == 0)


def test_each_episode_has_its_own_seed_and_starts_when_it_is_told_to() -> None:
    played = SeededEpisodes(make(AutoresetMode.DISABLED), "Countdown-v0")
    np.testing.assert_array_equal(played.begin([3, 10])[:, 0], [3, 10])
    steps = [played.step(np.zeros(2, np.int64)) for _ in range(2)]
    assert [step.ended.tolist() for step in steps] == [[False, False], [True, False]]
    assert played.steps.tolist() == [2, 2]
    np.testing.assert_array_equal(played.begin([5, 10], steps[-1].ended), [[5, 4], [10, 1]])
    assert played.steps.tolist() == [0, 2]
    short = SeededEpisodes(played.env, "Countdown-v0", limit=0)
    short.begin([5, 10])
    with pytest.raises(ValueError, match=r"episode of seed 5 is longer than 0 steps"):
        short.step(np.zeros(2, np.int64), np.array([True, False]))


def test_environments_that_reset_by_themselves_are_refused() -> None:
    with pytest.raises(ValueError, match=r"AutoresetMode\.DISABLED"):
        SeededEpisodes(make(AutoresetMode.NEXT_STEP), "Countdown-v0")
