"""Statistics of the rows of experience that are collected: steps, and episodes with their returns and lengths."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from datamodules.envs.episode_infos import Numbers, mean_numbers

COUNTERS = ("steps", "episodes", "restarts")

RECENT = 20
"""Number of the latest episodes over which reported returns are averaged."""


class EpisodeStatistics:
    """Counts of the rows of `N` parallel streams.

    Args:
        count: streams `N`.

    Attributes:
        steps: environment steps of all streams.
        episodes: number of episodes that have ended.
        restarts: number of environments that failed and were made anew.
        finished: return and length of the latest episodes.
        numbers: numbers that the environment reported for each of these, such as its success.
        spent: seconds of collecting, in this process.
    """

    def __init__(self, count: int) -> None:
        self.steps = 0
        self.episodes = 0
        self.restarts = 0
        self.finished: deque[tuple[float, int]] = deque(maxlen=RECENT)
        self.numbers: deque[Numbers] = deque(maxlen=RECENT)
        self._returns = np.zeros(count)
        self._lengths = np.zeros(count, np.int64)
        self.spent = 0.0  # seconds, in this process
        self._spent_steps = 0

    def count(
        self,
        reward: np.ndarray,
        is_first: np.ndarray,
        ended: np.ndarray,
        seconds: float,
        numbers: Mapping[tuple[int, int], Numbers],
    ) -> None:
        """Count further rows.

        Args:
            reward: `[t, N]`.
            is_first: `[t, N]` bool, the row is a reset and no step.
            ended: `[t, N]` bool, the row is the last of its episode.
            seconds: time that collecting them took.
            numbers: numbers of the episode that ended in row `t` of stream `n`, by `(t, n)`, where there are any.
        """
        steps = is_first.size - int(is_first.sum())
        self.steps += steps
        self.spent += seconds
        self._spent_steps += steps
        for t in range(len(reward)):
            self._returns += reward[t]
            self._lengths += ~is_first[t]
            for n in np.flatnonzero(ended[t]).tolist():
                self.finished.append((float(self._returns[n]), int(self._lengths[n])))
                self.numbers.append(numbers.get((t, n), {}))
                self._returns[n], self._lengths[n] = 0.0, 0
                self.episodes += 1

    @property
    def speed(self) -> float:
        """Environment steps per second of collecting."""
        return self._spent_steps / self.spent if self.spent else 0.0

    def metrics(self) -> dict[str, float]:
        """`return`, `length` and `success_rate` over the latest finished episodes, once there are any, and counts."""
        metrics: dict[str, float] = {}
        if self.finished:
            returns, lengths = zip(*self.finished, strict=True)
            metrics = {"return": float(np.mean(returns)), "length": float(np.mean(lengths))}
        counts = {"episodes": self.episodes, "steps_per_second": self.speed, "restarts": self.restarts}
        return {**mean_numbers(self.numbers), **metrics, **counts}

    def state_dict(self) -> dict[str, Any]:
        """The entries of a checkpoint."""
        return {
            "finished": [list(episode) for episode in self.finished],
            "numbers": [dict(numbers) for numbers in self.numbers],
            "counters": {name: getattr(self, name) for name in COUNTERS},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> str | None:
        """Inverse of `state_dict`, for episodes that start anew.

        Returns:
            None; a subclass says here why it cannot continue exactly.
        """
        for name, value in state["counters"].items():
            setattr(self, name, value)
        self.finished = deque(((r, n) for r, n in state["finished"]), maxlen=RECENT)
        self.numbers = deque(state.get("numbers", []), maxlen=RECENT)  # checkpoints had none at first
        self._returns[:], self._lengths[:] = 0.0, 0
        return None
