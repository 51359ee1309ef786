"""A game of two players whose matches end in all ways whatever the players know: the larger sum of actions wins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

ACTIONS = 3


class Duel(gym.Env):
    """One match against random actions; the reward is 1, 0 or -1 by its end."""

    def __init__(self, opponent: str = "random", steps: int = 3) -> None:
        self.match = Duels(1, opponent, steps)
        self.observation_space = self.match.single_observation_space
        self.action_space = self.match.single_action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self.match.reset(seed=seed)[0][0], {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        seen, reward, ended, _, info = self.match.step(np.array([action]))
        return seen[0], float(reward[0]), bool(ended[0]), False, {name: told[0] for name, told in info.items()}


class Duels(VectorEnv):
    """Many matches at once, with one row each; others may play the other side."""

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012
    built_in: ClassVar[tuple[str, ...]] = ("random",)
    team_size: ClassVar[int] = 1

    def __init__(self, num_envs: int, opponent: str = "random", steps: int = 3) -> None:
        assert opponent in self.built_in
        self.num_envs = num_envs
        self.steps = steps
        self.single_observation_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
        self.single_action_space = gym.spaces.Discrete(ACTIONS)
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, num_envs)
        self.opponents = np.full(num_envs, -1)
        self.results = np.empty((0, 2), np.int64)
        self.time = 0
        self.ahead = np.zeros(num_envs, np.int64)
        self.draw: Callable[..., np.ndarray] | None = None
        self.act: Callable[..., np.ndarray] | None = None

    def oppose(self, opponents: Any) -> None:
        self.draw = opponents.draw
        self.act = opponents.act

    def take_results(self) -> np.ndarray:
        taken, self.results = self.results, self.results[:0].copy()
        return taken

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self.begin(), {}

    def begin(self) -> np.ndarray:
        self.time = 0
        self.ahead = np.zeros(self.num_envs, np.int64)
        if self.draw is not None:
            self.opponents = self.draw(self.num_envs, self.np_random)
        return self.seen()

    def seen(self) -> np.ndarray:
        return np.full((self.num_envs, 1), self.time / self.steps, np.float32)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        nothing = np.zeros(self.num_envs, bool)
        if self.time == self.steps:
            return self.begin(), np.zeros(self.num_envs), nothing, nothing, {}
        others = self.np_random.integers(ACTIONS, size=self.num_envs)
        if self.act is not None and (self.opponents >= 0).all():
            others = self.act(self.seen(), self.opponents)
        self.ahead = self.ahead + np.asarray(actions) - others
        self.time += 1
        if self.time < self.steps:
            return self.seen(), np.zeros(self.num_envs), nothing, nothing, {}
        won = np.sign(self.ahead)
        self.results = np.concatenate([self.results, np.stack([self.opponents, won], 1)])
        info = {"success": won > 0, "draw": won == 0, "loss": won < 0}
        return self.seen(), won.astype(np.float64), ~nothing, nothing, info


gym.register("Duel-v0", "duels:Duel", vector_entry_point="duels:Duels")
