"""Oddities of a source's steps that are no errors, gathered while they are converted, for its card."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from datamodules.recorded.checks import is_real
from datamodules.recorded.description import Chunk, Description

# Rewards so many times the usual one are noted.
EXTREME_REWARD = 1e6
# A feature is noted if more than this share of its changes, and at least so many, vanish in float32.
VANISHING_SHARE, VANISHING_CHANGES = 0.5, 10


class Findings:
    """Counts over the chunks of one source.

    Args:
        description: the source, which gets the notes.
        observation: space of its observations.
    """

    def __init__(self, description: Description, observation: gym.Space) -> None:
        self.description = description
        self.observation = observation
        self.clipped = _Rows()
        self.outside = _Rows()
        self.rewards: list[np.ndarray] = []

    def look(self, chunk: Chunk, first_row: int, clipped: np.ndarray, outside: np.ndarray) -> None:
        """Take in a chunk.

        Args:
            chunk: steps, in order.
            first_row: row of the first one in the source.
            clipped: `[n]` bool, the action was put on a bound.
            outside: `[n]` bool, the observation is outside the bounds of its space.
        """
        if first_row == 0 and is_real(self.observation):
            self._vanishing(chunk.observation.reshape(len(chunk.reward), -1))
        self.clipped.add(first_row, clipped)
        self.outside.add(first_row, outside)
        self.rewards.append(np.abs(chunk.reward.astype(np.float64)))

    def _vanishing(self, values: np.ndarray) -> None:
        """Look for features whose steps float32 does not tell apart, such as seconds since 1970."""
        if values.dtype.itemsize < 4 or values.dtype == np.float32:
            return
        stored = values.astype(np.float32)
        changes = values[1:] != values[:-1]
        lost = (changes & (stored[1:] == stored[:-1])).sum(0)
        features = np.flatnonzero((lost > VANISHING_SHARE * changes.sum(0)) & (lost >= VANISHING_CHANGES))
        if len(features):
            self.description.note(
                f"observation features {features[:20].tolist()} change by less than float32 can tell at their size; "
                "subtract an offset before they are stored"
            )

    def write_notes(self) -> None:
        """Write the notes, when all chunks are through."""
        if self.clipped.count:
            self.description.note(
                f"actions of {self.clipped} lay outside their bounds by rounding and were put on them"
            )
        if self.outside.count:
            self.description.note(f"observations of {self.outside} lie outside the bounds of the observation space")
        sizes = np.concatenate(self.rewards)
        positive, row = sizes[sizes > 0], int(sizes.argmax())
        if len(positive):
            usual = np.partition(positive, len(positive) // 2)[len(positive) // 2]
            if sizes[row] > EXTREME_REWARD * usual:
                self.description.note(
                    f"the reward of row {row} has the size {sizes[row]:g}, where {usual:g} is usual: is it a marker?"
                )


class _Rows:
    """Number of the rows that have some property, and the first of them."""

    def __init__(self) -> None:
        self.count = 0
        self.first = -1

    def add(self, first_row: int, rows: np.ndarray) -> None:
        """Count where `rows` `[n]` holds, from the row `first_row` on."""
        if not self.count and rows.any():
            self.first = first_row + int(rows.argmax())
        self.count += int(rows.sum())

    def __str__(self) -> str:
        return f"{self.count:,} rows (the first is {self.first})"
