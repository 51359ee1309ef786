"""Where windows of parallel streams begin, and where their rows lie in a ring."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class WindowStarts(NamedTuple):
    """Where windows begin.

    Attributes:
        start: `[B]` int64 time of the first row, counted since the beginning of the stream.
        stream: `[B]` int64.
    """

    start: Tensor
    stream: Tensor


class RingBuffer:
    """Book-keeping of `N` parallel streams that are written into a ring of `[L, N]` rows, together.

    Args:
        streams: number of streams `N`.
        capacity: rows of each stream that may be sampled: the newest ones.
        margin: further rows of each stream that stay in place until they are overwritten. As long as no more than
            this are written after a checkpoint, all rows that it could sample are still there.
    """

    def __init__(self, streams: int, capacity: int, margin: int) -> None:
        self.streams, self.capacity = streams, capacity
        self.length = capacity + margin
        self.count = 0  # rows ever written to each stream

    @property
    def oldest(self) -> int:
        """Time of the oldest row that may be sampled."""
        return max(0, self.count - self.capacity)

    def rows(self, time: Tensor, stream: Tensor) -> Tensor:
        """Places of rows among the `L * N`, time-major."""
        return time % self.length * self.streams + stream

    def spans(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Runs of places that hold the rows of all streams between two times; two runs where the ring closes."""
        first, size, n = start % self.length, stop - start, self.streams
        ends = [(first, min(first + size, self.length)), (0, first + size - self.length)]
        return [(a * n, b * n) for a, b in ends if b > a]

    def draw(self, count: int, length: int, generator: torch.Generator | None) -> WindowStarts:
        """Windows whose first rows are uniform over all at which `length` rows fit.

        Raises:
            ValueError: there are not enough rows for one window yet.
        """
        self._check_fits(length)
        starts = self.count - self.oldest - length + 1
        draw = torch.randint(starts * self.streams, (count,), generator=generator)
        return WindowStarts(self.oldest + draw // self.streams, draw % self.streams)

    def newest(self, length: int) -> WindowStarts:
        """The newest window of every stream.

        Raises:
            ValueError: there are not enough rows for one yet.
        """
        self._check_fits(length)
        return WindowStarts(torch.full((self.streams,), self.count - length), torch.arange(self.streams))

    def _check_fits(self, length: int) -> None:
        if self.count - self.oldest < length:
            raise ValueError(f"a window of {length} rows does not fit: each stream holds {self.count - self.oldest}")

    def window_rows(self, windows: WindowStarts, length: int) -> Tensor:
        """`[T, B]` places of the windows' rows."""
        return self.rows(windows.start + torch.arange(length).unsqueeze(1), windows.stream)


def shift_to_ends(windows: WindowStarts, ends: Tensor, oldest: int) -> WindowStarts:
    """Move each window in which its first row's episode ends, so that the end is its last row.

    Without it the last rows of an episode are sampled less often than others as the first episode of a window, and
    what is learned at ends, such as a reward paid there, is learned from few rows. The official DreamerV2 draws the
    start from a range that is extended by the length and clamped (`prioritize_ends` in its `replay.py`).

    Args:
        windows: `[B]`.
        ends: `[T, B]` bool, the row is the last of its episode.
        oldest: windows that would start before this time stay where they are.
    """
    length = len(ends)
    back = length - 1 - ends.int().argmax(0)
    moved = windows.start - back
    return windows._replace(start=torch.where(ends.any(0) & (moved >= oldest), moved, windows.start))
