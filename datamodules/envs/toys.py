"""Small environments whose best and random returns are known, registered as `reverie/...`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from modules.arguments.checks import check_counts, check_ranges, check_sizes


class Catch(gym.Env):
    """A ball falls one row a step from a random column of the top row; catch it with a paddle on the bottom row.

    The observation is an image with two bright pixels, ball and paddle. The reward of the last step is +1 if the ball
    meets the paddle and -1 otherwise; all others are 0. An episode has `rows - 1` steps. The paddle starts in the
    middle, so in `rows - 1 >= columns // 2` steps every ball can be caught: the best return is 1. (After Osband et al.
    2020, "Behaviour Suite for Reinforcement Learning", https://arxiv.org/abs/1908.03568.)

    With a delay the ball lies where it fell, and the paddle stays, for a number of further steps that is drawn at the
    reset and that nobody sees; the last of them has the reward.

    With a wind the next frame is no function of the last one: before its last step the ball is blown to one side or the
    other by chance, as far as the walls let it. Whoever follows it still catches every ball.

    Args:
        rows: height of the image, at least 2.
        columns: width of the image.
        delay: least and greatest number of these steps.
        wind: chance of each step but the last that the ball is blown one column aside, to either side alike.
        render_mode: `rgb_array` for `render()`, or None.

    Raises:
        ValueError: the board is too small, the delay is no range, or the wind no chance.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012

    def __init__(
        self,
        rows: int = 10,
        columns: int = 5,
        delay: Sequence[int] = (0, 0),
        wind: float = 0.0,
        render_mode: str | None = None,
    ) -> None:
        check_counts(2, rows=rows)
        check_sizes(columns=columns)
        check_ranges(("wind", wind, 0.0, 1.0))
        if len(delay) != 2 or not 0 <= delay[0] <= delay[1]:
            raise ValueError(f"delay must be the least and the greatest number of steps, such as [0, 3], got {delay}")
        self.rows = rows
        self.columns = columns
        self.delay = tuple(delay)
        self.wind = wind
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(0, 255, (rows, columns, 1), np.uint8)
        self.action_space = gym.spaces.Discrete(3)  # left, stay, right
        self.ball_row = 0
        self.ball_column = 0
        self.paddle = 0
        self.late = 0  # steps from the fall to the reward that are left

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Put a ball into a random column of the top row, and the paddle into the middle of the bottom row."""
        super().reset(seed=seed)
        self.ball_row = 0
        self.ball_column = int(self.np_random.integers(self.columns))
        self.paddle = self.columns // 2
        least, greatest = self.delay
        self.late = int(self.np_random.integers(least, greatest + 1)) if greatest else 0
        return self._image(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Move the paddle by `action - 1` columns and the ball by one row, until it has fallen."""
        if self.ball_row < self.rows - 1:
            self.paddle = min(max(self.paddle + int(action) - 1, 0), self.columns - 1)
            self.ball_row += 1
            if self.wind and self.ball_row < self.rows - 1:
                self.ball_column = min(max(self.ball_column + self._gust(), 0), self.columns - 1)
        else:
            self.late -= 1
        ended = self.ball_row == self.rows - 1 and self.late == 0
        reward = (1.0 if self.paddle == self.ball_column else -1.0) if ended else 0.0
        return self._image(), reward, ended, False, {}

    def render(self) -> np.ndarray:
        """`[16 rows, 16 columns, 3]` uint8 picture of the board."""
        return np.kron(self._image(), np.ones((16, 16, 3), np.uint8))

    def _gust(self) -> int:
        """Columns that the wind blows the ball in one step."""
        blown, aside = self.np_random.random() < self.wind, int(self.np_random.integers(2))
        return 2 * aside - 1 if blown else 0

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
        super().__init__(rows, columns, render_mode=render_mode)
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


class PointMass(gym.Env):
    """A mass on a line is pushed to the origin: a linear system with quadratic costs, whose best return is known.

    The observation is [place, velocity]. A step adds a tenth of the velocity to the place and a tenth of the force to
    the velocity; its reward is `-(place^2 + 0.1 velocity^2 + 0.01 force^2)`, of the state before. An episode starts at
    rest at -0.3 or 0.3, and is cut after 20 steps. The best forces, by Riccati's equation, are below the bound of 2.5,
    so that the best return is `best_return()`, -0.589, of every episode; without a force it is -1.8.
    """

    steps = 20
    start = 0.3

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gym.spaces.Box(-2.5, 2.5, (1,), np.float32)
        self.state = np.zeros(2)
        self.time = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Put the mass on one side or the other, at rest."""
        super().reset(seed=seed)
        self.state = np.array([self.start if self.np_random.integers(2) else -self.start, 0.0])
        self.time = 0
        return self.state.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Push for a tenth of a second."""
        force = float(np.clip(action[0], -2.5, 2.5))
        place, velocity = self.state
        reward = -(place**2 + 0.1 * velocity**2 + 0.01 * force**2)
        self.state = np.array([place + 0.1 * velocity, velocity + 0.1 * force])
        self.time += 1
        return self.state.astype(np.float32), float(reward), False, self.time == self.steps, {}

    @classmethod
    def gains(cls) -> list[np.ndarray]:
        """Of each step, `[2]`: the best force is their product with the state, times -1 (Riccati's equation)."""
        return cls._riccati()[0]

    @classmethod
    def best_return(cls) -> float:
        """Return of the best forces."""
        return -float(cls._riccati()[1][0, 0]) * cls.start**2

    @classmethod
    def _riccati(cls) -> tuple[list[np.ndarray], np.ndarray]:
        moved, pushed = np.array([[1.0, 0.1], [0.0, 1.0]]), np.array([[0.0], [0.1]])
        cost, gains = np.zeros((2, 2)), []
        for _ in range(cls.steps):
            gain = pushed.T @ cost @ moved / (0.01 + pushed.T @ cost @ pushed)
            cost = np.diag([1.0, 0.1]) + moved.T @ cost @ (moved - pushed @ gain)
            gains.append(gain[0])
        return gains[::-1], cost
