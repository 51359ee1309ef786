"""A grid on which a key opens the door to the goal, and which tells what has happened, as `reverie/KeyDoor-v0`."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from modules.arguments.checks import check_counts, check_sizes

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))
"""Rows and columns of the steps up, right, down and left."""

EVENTS = ("key", "door", "win")


class KeyDoor(gym.Env):
    """Fetch the key, open the door in the wall, and go to the goal behind it: the reward is 1 there, and 0 before.

    The middle column of the grid is a wall with a door in it. Agent and key start on two fields to the left of it, the
    goal is on one to the right; these and the row of the door are drawn at the reset. Actions are a step up, right,
    down or left. A step onto the key takes it, one into the door opens it for who has the key, and one against the
    wall, the closed door or the edge changes nothing. An episode ends at the goal, with `success` in its info, and is
    cut after `limit` steps. The best return is 1, in at most 26 steps of the default grid; random actions reach the
    goal in some fourteen of a thousand episodes.

    The observation is a Dict. `place` is a vector of float32: rows and columns from the agent to the key, to the door
    and to the goal, each divided by `size - 1`, its own row and column likewise, whether it has the key (the way to it
    is 0 then), and whether the door is open. `events` is an int8 `[3]`, 1 for what the step before has done: the key
    was taken, the door opened, the goal reached. Each happens once in an episode.

    Args:
        size: rows and columns of the grid, odd and at least 5.
        limit: steps after which an episode is cut.

    Raises:
        ValueError: the grid is too small or has no middle column, or a number is out of range.
    """

    def __init__(self, size: int = 7, limit: int = 40) -> None:
        check_counts(5, size=size)
        check_sizes(limit=limit)
        if size % 2 == 0:
            raise ValueError(f"size must be odd, for the wall is in the middle, got {size}")
        self.size = size
        self.limit = limit
        self.wall = size // 2
        place, events = gym.spaces.Box(-1.0, 1.0, (10,), np.float32), gym.spaces.Box(0, 1, (len(EVENTS),), np.int8)
        self.observation_space = gym.spaces.Dict({"place": place, "events": events})
        self.action_space = gym.spaces.Discrete(len(MOVES))
        self.agent = (0, 0)  # row and column, as of all places
        self.key = (0, 0)
        self.door = (0, 0)
        self.goal = (0, 0)
        self.has_key = False
        self.is_open = False
        self.time = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Draw where everything is, and close the door."""
        super().reset(seed=seed)
        agent, key = self.np_random.choice(self.size * self.wall, 2, replace=False).tolist()
        self.agent = divmod(agent, self.wall)
        self.key = divmod(key, self.wall)
        self.door = (int(self.np_random.integers(self.size)), self.wall)
        row, column = divmod(int(self.np_random.integers(self.size * self.wall)), self.wall)
        self.goal = (row, self.wall + 1 + column)
        self.has_key = False
        self.is_open = False
        self.time = 0
        return self._observation(""), {}

    def step(self, action: int) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Go a step."""
        self.time += 1
        happened = self._move(*MOVES[action])
        won = happened == "win"
        cut = self.time == self.limit and not won
        return self._observation(happened), float(won), won, cut, {"success": won} if won or cut else {}

    def _move(self, down: int, right: int) -> str:
        """Go there if that is possible; returns what has happened, or nothing."""
        row, column = to = self.agent[0] + down, self.agent[1] + right
        opens = to == self.door and self.has_key and not self.is_open
        self.is_open |= opens
        if (column == self.wall and not (self.is_open and to == self.door)) or not (
            0 <= row < self.size and 0 <= column < self.size
        ):
            return ""
        self.agent = to
        takes = to == self.key and not self.has_key
        self.has_key |= takes
        return "door" if opens else "key" if takes else "win" if to == self.goal else ""

    def _observation(self, happened: str) -> dict[str, np.ndarray]:
        (row, column), unit = self.agent, self.size - 1
        places = (self.agent if self.has_key else self.key, self.door, self.goal)
        ways = [number / unit for place in places for number in (place[0] - row, place[1] - column)]
        place = np.array([*ways, row / unit, column / unit, self.has_key, self.is_open], np.float32)
        return {"place": place, "events": np.array([name == happened for name in EVENTS], np.int8)}
