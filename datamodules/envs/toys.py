"""Small environments whose best and random returns are known, registered as `reverie/...`."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np


class Catch(gym.Env):
    """A ball falls one row a step from a random column of the top row; catch it with a paddle on the bottom row.

    The observation is an image with two bright pixels, ball and paddle. The last step pays +1 if the ball meets the
    paddle and -1 otherwise; all others pay 0. An episode has `rows - 1` steps. The paddle starts in the middle, so in
    `rows - 1 >= columns // 2` steps every ball can be caught: the best return is 1. (After Osband et al. 2020,
    "Behaviour Suite for Reinforcement Learning", https://arxiv.org/abs/1908.03568.)

    Args:
        rows: height of the image, at least 2.
        columns: width of the image.
        render_mode: `rgb_array` for `render()`, or None.

    Raises:
        ValueError: the board is too small.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012

    def __init__(self, rows: int = 10, columns: int = 5, render_mode: str | None = None) -> None:
        if rows < 2 or columns < 1:
            raise ValueError(f"Catch needs at least 2 rows and 1 column, got {rows} and {columns}")
        self.rows, self.columns, self.render_mode = rows, columns, render_mode
        self.observation_space = gym.spaces.Box(0, 255, (rows, columns, 1), np.uint8)
        self.action_space = gym.spaces.Discrete(3)  # left, stay, right
        self.ball_row = self.ball_column = self.paddle = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Put a ball into a random column of the top row, and the paddle into the middle of the bottom row."""
        super().reset(seed=seed)
        self.ball_row, self.ball_column = 0, int(self.np_random.integers(self.columns))
        self.paddle = self.columns // 2
        return self._image(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
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
