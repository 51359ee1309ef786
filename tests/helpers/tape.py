"""An environment that writes down its own time and actions, and breaks on demand; registered as `tape:Tape-v0`."""

from __future__ import annotations

import os
from typing import Any

import gymnasium as gym
import numpy as np


class Tape(gym.Env):
    """The observation is [steps since the reset, number of the episode, action that led here]; 0 for no action.

    Episodes last `length` steps; every second one is cut by a time limit instead of ending. The reward is the number
    of the step, times ten.

    Args:
        length: of an episode.
        fail_at: steps ever taken, over all environments of this process, before `step` raises; negative for never.
        fails: how often it raises.
        bad: what is NaN in the third step: `observation`, `reward` or nothing; with `exit`, the process ends there.
        opaque: hold something that cannot be captured.
    """

    taken = 0
    failed = 0
    observation_space = gym.spaces.Box(-1000.0, 1000.0, (3,), np.float64)
    action_space = gym.spaces.Discrete(7)

    def __init__(self, length: int = 4, fail_at: int = -1, fails: int = 1, bad: str = "", opaque: bool = False) -> None:
        self.length = length
        self.fail_at = fail_at
        self.fails = fails
        self.bad = bad
        self.time = 0
        self.episode = -1
        self.action = 0
        self.opaque = memoryview(b"x") if opaque else None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.time = 0
        self.episode = self.episode + 1
        self.action = 0
        return self._observation(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        Tape.taken += 1
        if self.fail_at >= 0 and Tape.taken > self.fail_at and Tape.failed < self.fails:
            Tape.failed += 1
            raise ZeroDivisionError("the simulator fell over")
        self.time, self.action = self.time + 1, int(action)
        if self.bad == "exit" and self.time == 3:
            os._exit(1)
        ended = self.time == self.length
        cut = self.episode % 2 == 1
        reward = float("nan") if self.bad == "reward" and self.time == 3 else 10.0 * self.time
        return self._observation(), reward, ended and not cut, ended and cut, {"time": self.time}

    def _observation(self) -> np.ndarray:
        if self.bad == "observation" and self.time == 3:
            return np.full(3, np.nan)
        return np.array([self.time, self.episode, self.action], np.float64)


class Many(Tape):
    """The same as a Dict with an image and a counter, and several actions at once."""

    observation_space = gym.spaces.Dict(
        {
            "camera/front": gym.spaces.Box(0, 255, (4, 4, 1), np.uint8),
            "clock": gym.spaces.Discrete(100),
            "reward": gym.spaces.Box(-1.0, 1.0, (2,), np.float64),
        }
    )
    action_space = gym.spaces.MultiDiscrete([3, 4])

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        return super().step(int(action[0]))

    def _observation(self) -> Any:
        return {
            "camera/front": np.full((4, 4, 1), self.time, np.uint8),
            "clock": self.time,
            "reward": np.array([0.5, self.action]),
        }


gym.register("Tape-v0", Tape)
gym.register("Many-v0", Many)
