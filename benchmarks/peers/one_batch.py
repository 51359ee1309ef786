"""An agent of stable-baselines3 where nothing is played: spaces, and always the same batch."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.type_aliases import ReplayBufferSamples


class Spaces(gym.Env):
    """Nothing but spaces: vectors of some width, and so many numbers in [-1, 1] as an action."""

    def __init__(self, width: int, actions: int) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (width,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (actions,), np.float32)


class OneBatch:
    """A replay that always gives the same batch."""

    def __init__(self, rows: ReplayBufferSamples) -> None:
        self.rows = rows

    def sample(self, batch_size: int, env: Any = None) -> ReplayBufferSamples:
        """The batch, of whatever size."""
        return self.rows
