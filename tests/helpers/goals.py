"""A goal-observation environment, and episodes of it as a Minari dataset, as of antmaze, pointmaze and kitchen.

A point on a line is pushed to a goal. The observation is a Dict of what Minari's goal datasets hold, with a nested
Dict, a number of state, and a text that no network takes.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import minari
import numpy as np
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

LENGTH = 8
PARTS = ["achieved_goal", "desired_goal/far", "desired_goal/side", "observation", "phase"]
"""All parts of numbers, sorted."""


class Goal(gym.Env):
    """Push the point `[2]` to the goal: the reward is minus the distance, and 8 steps are an episode."""

    def __init__(self, text: bool = False) -> None:
        real = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        goal = spaces.Dict({"far": real, "side": spaces.Discrete(2)})
        parts = {"observation": spaces.Box(-9.0, 9.0, (2, 2), np.float64), "achieved_goal": real, "desired_goal": goal}
        parts |= {"phase": spaces.Discrete(LENGTH + 1)} | ({"say": spaces.Text(3)} if text else {})
        self.text = text
        self.observation_space = spaces.Dict(parts)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-1, 1, 2)
        self.goal = self.np_random.uniform(-1, 1, 2)
        self.speed = np.zeros(2)
        self.time = 0
        return self._observed(), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.speed = 0.5 * np.asarray(action, np.float64)
        self.place = self.place + self.speed
        self.time += 1
        return self._observed(), -float(np.abs(self.place - self.goal).sum()), False, self.time == LENGTH, {}

    def _observed(self) -> dict[str, Any]:
        goal = {"far": self.goal, "side": int(self.goal[0] > 0)}
        seen = {"observation": np.stack([self.place, self.speed]), "achieved_goal": self.place, "desired_goal": goal}
        return seen | {"phase": self.time} | ({"say": "go"} if self.text else {})


gym.register("goals/Goal-v0", "goals:Goal")


def steer(observation: dict[str, Any]) -> np.ndarray:
    """The best action: towards the goal."""
    way = observation["desired_goal"]["far"] - observation["achieved_goal"]
    return np.clip(2.0 * way, -1, 1).astype(np.float32)


def stacked(rows: list[Any]) -> Any:
    """Observations as Minari stores them: each part with a first axis."""
    if isinstance(rows[0], dict):
        return {key: stacked([row[key] for row in rows]) for key in rows[0]}
    return rows if isinstance(rows[0], str) else np.asarray(rows)


def record(name: str = "goal/steered-v0", episodes: int = 6, noise: float = 0.2, **arguments: Any) -> list[Any]:
    """Write episodes of noisy steering to `$MINARI_DATASETS_PATH`; returns their observations, one list for each."""
    env, rng = gym.make("goals/Goal-v0", **arguments), np.random.default_rng(0)
    buffers, seen = [], []
    for index in range(episodes):
        rows, actions, rewards, cut = [env.reset(seed=index)[0]], [], [], False
        while not cut:
            action = np.clip(steer(rows[-1]) + noise * rng.standard_normal(2), -1, 1).astype(np.float32)
            row, reward, _, cut, _ = env.step(action)
            rows, actions, rewards = [*rows, row], [*actions, action], [*rewards, reward]
        ends = [index == LENGTH - 1 for index in range(LENGTH)]
        buffers.append(
            EpisodeBuffer(
                id=index,
                observations=stacked(rows),
                actions=np.stack(actions),
                rewards=rewards,
                terminations=[False] * LENGTH,
                truncations=ends,
                infos={},
            )
        )
        seen.append(rows)
    minari.create_dataset_from_buffers(name, buffers, env=env, data_format="hdf5")
    return seen


def by_hand(observation: dict[str, Any], parts: list[str] = PARTS) -> np.ndarray:
    """The joined observation, written out part by part."""
    one_hot = {"desired_goal/side": np.eye(2), "phase": np.eye(LENGTH + 1)}
    found = []
    for key in parts:
        value: Any = observation
        for name in key.split("/"):
            value = value[name]
        found.append(one_hot[key][value] if key in one_hot else np.ravel(value))
    return np.concatenate(found).astype(np.float32)
