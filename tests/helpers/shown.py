"""An environment that shows and takes whatever spaces it is given: `shown:Shown-v0`."""

from __future__ import annotations

from typing import Any

import gymnasium as gym


class Shown(gym.Env):
    """Samples of `observation`, a reward of 1 a step for actions inside of `action`; five steps.

    Args:
        observation: space of the observations.
        action: space of the actions.
    """

    def __init__(self, observation: gym.Space, action: gym.Space) -> None:
        self.observation_space = observation
        self.action_space = action
        self.time = 0
        self.last: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.time = 0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.time += 1
        return self._seen(), 1.0, self.time == 5, False, {}

    def _seen(self) -> Any:
        self.last = self.observation_space.sample()
        return self.last


# The checker of Gymnasium warns of many of these spaces.
gym.register("Shown-v0", Shown, disable_env_checker=True)
