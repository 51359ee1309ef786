"""Where windows of parallel streams begin, and where their rows lie in a ring."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchrl.data import RoundRobinWriter


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
        writer: TorchRL's, which counts what it has written; None for a new one.
    """

    def __init__(self, streams: int, capacity: int, margin: int, writer: RoundRobinWriter | None = None) -> None:
        self.streams = streams
        self.capacity = capacity
        self.length = capacity + margin
        self.writer = writer or RoundRobinWriter()

    @property
    def count(self) -> int:
        """Rows that were ever written to each stream."""
        return self.writer.state_dict()["_write_count"]

    def go_on(self, count: int, turn: int) -> None:
        """Go on as if so many rows had been written to each stream, and the writer began anew after every `turn`."""
        self.writer.load_state_dict({"_cursor": count % turn, "_write_count": count})

    @property
    def oldest(self) -> int:
        """Time of the oldest row that may be sampled."""
        return max(0, self.count - self.capacity)

    def numbers(self, slot: Tensor) -> Tensor:
        """Numbers of the rows in `capacity` slots that are filled in turn."""
        newest = self.count - 1
        return newest - (newest - slot) % self.capacity

    def spans(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Runs of places of the rows between two times; two runs where the ring closes."""
        first, size = start % self.length, stop - start
        ends = [(first, min(first + size, self.length)), (0, first + size - self.length)]
        return [(a, b) for a, b in ends if b > a]

    def draw(self, count: int, length: int, generator: torch.Generator | None) -> WindowStarts:
        """Windows whose first rows are uniform over all at which `length` rows fit.

        Raises:
            ValueError: there are not enough rows for one window yet.
        """
        oldest, held = self._held(length)
        draw = torch.randint((held - length + 1) * self.streams, (count,), generator=generator)
        return WindowStarts(oldest + draw // self.streams, draw % self.streams)

    def newest(self, length: int) -> WindowStarts:
        """The newest window of every stream.

        Raises:
            ValueError: there are not enough rows for one yet.
        """
        oldest, held = self._held(length)
        return WindowStarts(torch.full((self.streams,), oldest + held - length), torch.arange(self.streams))

    def _held(self, length: int) -> tuple[int, int]:
        """Time of the oldest row of each stream that may be sampled, and how many there are, if a window fits."""
        oldest = self.oldest
        held = self.count - oldest
        if held < length:
            raise ValueError(f"a window of {length} rows does not fit: each stream holds {held}")
        return oldest, held

    def places(self, windows: WindowStarts, length: int) -> Tensor:
        """Numbers `[T, B]` of the rows of windows among `L * N`."""
        return (windows.start + torch.arange(length).unsqueeze(1)) % self.length * self.streams + windows.stream

    def index(self, windows: WindowStarts, length: int) -> tuple[Tensor, Tensor]:
        """Where the rows of windows are among `[L, N]`: `[B, T]` each, contiguous as `[T, B]`."""
        time = (windows.start + torch.arange(length).unsqueeze(1)) % self.length
        return time.transpose(0, 1), windows.stream.expand_as(time).transpose(0, 1)


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
    has_end, first = ends.max(0)  # the first of several, as torch promises
    moved = windows.start + (first - (len(ends) - 1))
    return windows._replace(start=torch.where(has_end & (moved >= oldest), moved, windows.start))
