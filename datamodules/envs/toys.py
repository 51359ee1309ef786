"""Small environments whose best and random returns are known, registered as `reverie/...`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from modules.arguments.checks import check_counts, check_sizes


class Catch(gym.Env):
    """A ball falls one row a step from a random column of the top row; catch it with a paddle on the bottom row.

    The observation is an image with two bright pixels, ball and paddle. The reward of the last step is +1 if the ball
    meets the paddle and -1 otherwise; all others are 0. An episode has `rows - 1` steps. The paddle starts in the
    middle, so in `rows - 1 >= columns // 2` steps every ball can be caught: the best return is 1. (After Osband et al.
    2020, "Behaviour Suite for Reinforcement Learning", https://arxiv.org/abs/1908.03568.)

    Args:
        rows: height of the image, at least 2.
        columns: width of the image.
        render_mode: `rgb_array` for `render()`, or None.

    Raises:
        ValueError: the board is too small.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012

    def __init__(self, rows: int = 10, columns: int = 5, render_mode: str | None = None) -> None:
        check_counts(2, rows=rows)
        check_sizes(columns=columns)
        self.rows = rows
        self.columns = columns
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(0, 255, (rows, columns, 1), np.uint8)
        self.action_space = gym.spaces.Discrete(3)  # left, stay, right
        self.ball_row = 0
        self.ball_column = 0
        self.paddle = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Put a ball into a random column of the top row, and the paddle into the middle of the bottom row."""
        super().reset(seed=seed)
        self.ball_row = 0
        self.ball_column = int(self.np_random.integers(self.columns))
        self.paddle = self.columns // 2
        return self._image(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Move the paddle by `action - 1` columns and the ball by one row."""
        self.paddle = min(max(self.paddle + int(action) - 1, 0), self.columns - 1)
        self.ball_row += 1
        ended = self.ball_row == self.rows - 1
        reward = (1.0 if self.paddle == self.ball_column else -1.0) if ended else 0.0
        return self._image(), reward, ended, False, {}

    def render(self) -> np.ndarray:
        """`[16 rows, 16 columns, 3]` uint8 picture of the board."""
        return np.kron(self._image(), np.ones((16, 16, 3), np.uint8))

    def _image(self) -> np.ndarray:
        image = np.zeros((self.rows, self.columns, 1), np.uint8)
        image[self.ball_row, self.ball_column] = image[self.rows - 1, self.paddle] = 255
        return image


class TwoCatch(Catch):
    """Every episode is one of two games of `Catch`, whose rewards are of different scales.

    The observation is a Dict of the board, `image`, and `task`, the game as a one-hot float32 `[2]`. The game is drawn
    at the reset, with equal probability. The best return is the game's scale, that of random actions -0.6 of it.

    Args:
        scales: scales of the rewards of the two games.
        game: 0 or 1 for one of the games alone; None for both.
        rows: height of the image, at least 2.
        columns: width of the image.
        render_mode: `rgb_array` for `render()`, or None.

    Raises:
        ValueError: there are not two scales, or no such game, or the board is too small.
    """

    def __init__(
        self,
        scales: Sequence[float] = (1.0, 1e4),
        game: int | None = None,
        rows: int = 10,
        columns: int = 5,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(rows, columns, render_mode)
        if len(scales) != 2:
            raise ValueError(f"TwoCatch needs two scales, got {list(scales)}")
        if game not in (None, 0, 1):
            raise ValueError(f"game must be 0, 1 or None for both, got {game}")
        self.scales = tuple(float(scale) for scale in scales)
        self.only = game
        self.game = 0
        task = gym.spaces.Box(0.0, 1.0, (2,), np.float32)
        self.observation_space = gym.spaces.Dict({"image": self.observation_space, "task": task})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Put a ball into a random column, as in `Catch`, and draw the game."""
        image, info = super().reset(seed=seed)
        drawn = int(self.np_random.integers(2))  # in any case: a fixed game has the same balls
        self.game = drawn if self.only is None else self.only
        return self._observation(image), info

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Move the paddle and the ball; the reward is times the game's scale."""
        image, reward, terminated, truncated, info = super().step(action)
        return self._observation(image), reward * self.scales[self.game], terminated, truncated, info

    def _observation(self, image: np.ndarray) -> dict[str, np.ndarray]:
        return {"image": image, "task": np.eye(2, dtype=np.float32)[self.game]}


class TMaze(gym.Env):
    """A cue at the start of a corridor tells where to turn at its end: only an agent with a memory can solve it.

    The observation is [cue, junction, 1]: the cue is -1 (left) or +1 (right) at the reset and 0 afterwards, the
    junction is 1 at the end of the corridor. Actions are forward, left, right. Forward goes one place on along the
    corridor, and the first left or right at its end ends the episode, with the reward +1 if it is the cue's and -1
    otherwise. Other actions leave the place as it is, with the reward 0. The best return is 1, in `corridor + 1` steps;
    without a memory it is 0, as it is for random actions. (After Bakker 2001, "Reinforcement Learning with Long
    Short-Term Memory", NeurIPS 14.)

    Args:
        corridor: steps to its end, at least 1. The episode is cut after `4 corridor + 10` steps.

    Raises:
        ValueError: the corridor is too short.
    """

    def __init__(self, corridor: int = 10) -> None:
        check_sizes(corridor=corridor)
        self.corridor = corridor
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
        self.action_space = gym.spaces.Discrete(3)  # forward, left, right
        self.cue = 0
        self.place = 0
        self.time = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Go to the start and draw the cue."""
        super().reset(seed=seed)
        self.cue = 2 * int(self.np_random.integers(2)) - 1
        self.place = 0
        self.time = 0
        return self._observation(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Go on along the corridor, or turn at its end."""
        self.time += 1
        turned = self.place == self.corridor and action != 0
        reward = float(self.cue * (2 * int(action) - 3)) if turned else 0.0  # 1 is left, 2 is right
        if action == 0:
            self.place = min(self.place + 1, self.corridor)
        cut = self.time == 4 * self.corridor + 10
        return self._observation(), reward, turned, cut and not turned, {}

    def _observation(self) -> np.ndarray:
        cue = self.cue if self.time == 0 else 0
        return np.array([cue, self.place == self.corridor, 1.0], np.float32)
