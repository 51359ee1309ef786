"""What is counted while rows of experience come in: steps, episodes, their returns and lengths."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

COUNTERS = ("steps", "episodes", "restarts")

RECENT = 20
"""Finished episodes that reported returns are averaged over."""


class Tally:
    """Counts of the rows of `N` parallel streams.

    Args:
        count: streams `N`.

    Attributes:
        steps: environment steps of all copies.
        episodes: that have ended.
        restarts: copies that failed and were made anew.
        finished: return and length of the latest episodes.
        spent: seconds of collecting, in this process.
    """

    def __init__(self, count: int) -> None:
        self.steps = 0
        self.episodes = 0
        self.restarts = 0
        self.finished: deque[tuple[float, int]] = deque(maxlen=RECENT)
        self._returns, self._lengths = np.zeros(count), np.zeros(count, np.int64)
        self.spent = 0.0  # seconds, in this process
        self._spent_steps = 0

    def count(self, reward: np.ndarray, is_first: np.ndarray, ended: np.ndarray, seconds: float) -> None:
        """Count further rows.

        Args:
            reward: `[t, N]`.
            is_first: `[t, N]` bool, the row is a reset and no step.
            ended: `[t, N]` bool, the row is the last of its episode.
            seconds: that it took to collect them.
        """
        steps = is_first.size - int(is_first.sum())
        self.steps += steps
        self.spent += seconds
        self._spent_steps += steps
        for t in range(len(reward)):
            self._returns += reward[t]
            self._lengths += ~is_first[t]
            for copy in np.flatnonzero(ended[t]):
                self.finished.append((float(self._returns[copy]), int(self._lengths[copy])))
                self._returns[copy], self._lengths[copy] = 0.0, 0
                self.episodes += 1

    @property
    def speed(self) -> float:
        """Environment steps per second of collecting."""
        return self._spent_steps / self.spent if self.spent else 0.0

    def metrics(self) -> dict[str, float]:
        """`return` and `length`, means over the latest finished episodes, once there is one, and counts by name."""
        metrics: dict[str, float] = {}
        if self.finished:
            returns, lengths = zip(*self.finished, strict=True)
            metrics = {"return": float(np.mean(returns)), "length": float(np.mean(lengths))}
        counts = {"episodes": self.episodes, "steps_per_second": self.speed, "restarts": self.restarts}
        return {**metrics, **counts}

    def counts(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "finished": [list(episode) for episode in self.finished],
            "counters": {name: getattr(self, name) for name in COUNTERS},
        }

    def load_counts(self, state: Mapping[str, Any]) -> None:
        """Inverse of `counts`, for episodes that start anew."""
        for name, value in state["counters"].items():
            setattr(self, name, value)
        self.finished = deque(((r, n) for r, n in state["finished"]), maxlen=RECENT)
        self._returns[:], self._lengths[:] = 0.0, 0
