"""Replay of parallel streams of experience: windows of consecutive rows, on TorchRL, in memory-mapped files."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import RandomSampler, ReplayBuffer
from torchrl.data.replay_buffers import Storage
from torchrl.data.replay_buffers.writers import Writer

from datamodules.mapped import Field, MappedFields, describe_layout, read_layout
from datamodules.replay import GatherStorage

OBSERVATION = "observation"
CHECKED = ("previous_action", "reward", "is_first")
"""Fields whose checksum tells whether the rows of a checkpoint are still there."""


class Windows(NamedTuple):
    """Where windows begin.

    Attributes:
        start: `[B]` int64 time of the first row, counted since the beginning of the stream.
        stream: `[B]` int64.
    """

    start: Tensor
    stream: Tensor


class Ring:
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

    def draw(self, count: int, length: int, generator: torch.Generator | None) -> Windows:
        """Windows whose first rows are uniform over all at which `length` rows fit.

        Raises:
            ValueError: there are not enough rows for one window yet.
        """
        starts = self.count - self.oldest - length + 1
        if starts < 1:
            raise ValueError(f"a window of {length} rows does not fit: each stream holds {self.count - self.oldest}")
        draw = torch.randint(starts * self.streams, (count,), generator=generator)
        return Windows(self.oldest + draw // self.streams, draw % self.streams)

    def window_rows(self, windows: Windows, length: int) -> Tensor:
        """`[T, B]` places of the windows' rows."""
        return self.rows(windows.start + torch.arange(length).unsqueeze(1), windows.stream)


def shift_to_ends(windows: Windows, ends: Tensor, oldest: int) -> Windows:
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


class StreamWriter(Writer):
    """Writes `[t, N]` rows behind the newest ones."""

    def __init__(self, ring: Ring, files: MappedFields) -> None:
        super().__init__()
        self._ring, self._files = ring, files

    def extend(self, data: TensorDictBase) -> Tensor:
        ring, files = self._ring, self._files
        steps = len(data)
        assert steps <= ring.length
        spans = ring.spans(ring.count, ring.count + steps)
        for name, value in flat_names(data).items():
            written, place = value.flatten(0, 1), files.values[name]
            done = 0
            for a, b in spans:
                place[a:b] = written[done : done + b - a]
                done += b - a
        ring.count += steps
        files.count = ring.count
        files.touched(steps * ring.streams)
        return torch.cat([torch.arange(a, b) for a, b in spans])

    def add(self, data: Any) -> int:
        raise NotImplementedError("rows are written for all streams at once, by `extend`")

    def _empty(self, empty_write_count: bool = True) -> None:
        self._ring.count = 0

    def dumps(self, path: Any) -> None:
        raise NotImplementedError("see SequenceReplay.state")

    loads = dumps

    def state_dict(self) -> dict[str, Any]:
        return {"count": self._ring.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._ring.count = state_dict["count"]


class WindowSampler(RandomSampler):
    """Uniform windows of a ring; their rows come time-major."""

    def __init__(self, ring: Ring, files: MappedFields, length: int, prioritize_ends: bool) -> None:
        super().__init__()
        self._ring, self._files, self._length, self._prioritize_ends = ring, files, length, prioritize_ends

    def sample(self, storage: Storage, batch_size: int) -> tuple[Tensor, dict[str, Any]]:
        windows = self._ring.draw(batch_size, self._length, self._rng)
        if self._prioritize_ends:
            place = self._ring.window_rows(windows, self._length)
            flags = self._files.values
            ends = flags["terminated"].take(place) | flags["truncated"].take(place)
            windows = shift_to_ends(windows, ends, self._ring.oldest)
        self._files.touched(batch_size * self._length)
        return self._ring.window_rows(windows, self._length).flatten(), {}


class SequenceReplay:
    """Windows of `N` parallel streams of experience; the rows are those of `modules.batch.Sequence`.

    The rows are in memory-mapped files, which grow as they are written and are kept for a resume. Nothing is opened
    before the first rows are written or a state is loaded.

    Args:
        folder: for the files.
        observation: kind of the observation, or of each of its keys.
        action: kind of the action.
        streams: `N`.
        capacity: rows of each stream that can be sampled; the oldest ones are dropped.
        margin: rows of each stream that can be written after a checkpoint without a trace in it, see `Ring`.
        batch_size: windows per batch `B`.
        length: rows of a window `T`.
        prioritize_ends: see `shift_to_ends`.
        seed: of the windows.
    """

    def __init__(
        self,
        folder: Path,
        observation: Field | Mapping[str, Field],
        action: Field,
        *,
        streams: int,
        capacity: int,
        margin: int,
        batch_size: int,
        length: int,
        prioritize_ends: bool = False,
        seed: int = 0,
    ) -> None:
        parts = {OBSERVATION: observation} if isinstance(observation, Field) else None
        named = parts or {f"{OBSERVATION}.{key}": field for key, field in observation.items()}  # type: ignore[union-attr]
        flags = dict.fromkeys(("is_first", "terminated", "truncated"), Field((), torch.bool))
        self.fields: dict[str, Field] = {
            **named, "previous_action": action, "reward": Field((), torch.float32), **flags
        }  # fmt: skip
        self.folder, self.batch_size, self.length, self.prioritize_ends = folder, batch_size, length, prioritize_ends
        self.ring = Ring(streams, capacity, margin)
        self.generator = torch.Generator().manual_seed(seed)
        self._buffer: ReplayBuffer | None = None
        self._files: MappedFields | None = None

    def __len__(self) -> int:
        """Rows of each stream that can be sampled."""
        return self.ring.count - self.ring.oldest

    def _open(self) -> tuple[ReplayBuffer, MappedFields]:
        if self._buffer is None or self._files is None:
            self._files = MappedFields(self.folder, self.fields, self.ring.length * self.ring.streams)
            values = {tuple(name.split(".", 1)): value for name, value in self._files.values.items()}
            self._buffer = ReplayBuffer(
                storage=GatherStorage(TensorDict(values, [self._files.rows]), "cpu"),
                sampler=WindowSampler(self.ring, self._files, self.length, self.prioritize_ends),
                writer=StreamWriter(self.ring, self._files),
                collate_fn=self._windows,
                batch_size=self.batch_size,
            )
            self._buffer.set_rng(self.generator)
        return self._buffer, self._files

    def _windows(self, rows: TensorDictBase) -> TensorDict:
        return batch_major(rows, self.length)

    def extend(self, rows: TensorDictBase) -> None:
        """Add `[t, N]` rows of all streams behind the newest ones."""
        self._open()[0].extend(rows)

    def sample(self) -> TensorDict:
        """`[B, T]` windows; a view of tensors that are contiguous as `[T, B]`."""
        return self._open()[0].sample()

    def sample_windows(self, count: int, length: int, generator: torch.Generator) -> TensorDict:
        """`[count, length]` uniform windows that leave the own generator untouched."""
        buffer, files = self._open()
        place = self.ring.window_rows(self.ring.draw(count, length, generator), length)
        files.touched(place.numel())
        return batch_major(buffer.storage.get(place.flatten()), length)

    # ----------------------------------------------------------------------------------------------------- exact resume
    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, with all rows on disk: the rows themselves stay in the folder."""
        _, files = self._open()
        files.flush()
        return {
            "layout": describe_layout(self.fields, files.rows),
            "streams": self.ring.streams,
            "capacity": self.ring.capacity,
            "folder": str(self.folder.absolute()),
            "count": self.ring.count,
            "checksum": self._checksum(files),
            "generator": self.generator.get_state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> bool:
        """Continue with the rows of a checkpoint, from its folder where this one is another.

        Returns:
            Whether these are exactly its rows. If not, the replay holds the newest rows of the folder, or none.

        Raises:
            ValueError: the checkpoint's replay is of another layout.
        """
        rows = self.ring.length * self.ring.streams
        layout = describe_layout(self.fields, rows)
        mine = {"layout": layout, "streams": self.ring.streams, "capacity": self.ring.capacity}
        for name, value in mine.items():
            if state[name] != value:
                raise ValueError(
                    f"the checkpoint's replay does not fit the configured one: its {name} is {state[name]}, the "
                    f"configured one {value}; use the run's own config.yaml"
                )
        source = Path(state["folder"])
        self.generator.set_state(state["generator"])
        if read_layout(self.folder) != layout and read_layout(source) == layout:
            self._open()[1].copy_from(source, self.ring.streams)
        elif read_layout(self.folder) != layout:
            return False
        _, files = self._open()
        self.ring.count = state["count"]
        if self._checksum(files) == state["checksum"]:
            return True
        self.ring.count = files.count
        return False

    def _checksum(self, files: MappedFields) -> int:
        """CRC-32 of the small fields of all rows that can be sampled."""
        checksum = 0
        for a, b in self.ring.spans(self.ring.oldest, self.ring.count):
            for name in CHECKED:
                checksum = zlib.crc32(files.values[name][a:b].numpy().data, checksum)
        return checksum


def batch_major(rows: TensorDictBase, length: int) -> TensorDict:
    """`[T * B]` time-major rows as a `[B, T]` view."""
    size = [rows.shape[0] // length, length]
    fields: dict[tuple[str, ...], Tensor] = {}
    for name, value in flat_names(rows).items():
        fields[tuple(name.split(".", 1))] = value.view(length, size[0], *value.shape[1:]).transpose(0, 1)
    return TensorDict(fields, size, device="cpu")


def flat_names(rows: TensorDictBase) -> dict[str, Tensor]:
    """Entries by name, with dots between keys."""
    return {".".join(key) if isinstance(key, tuple) else key: value for key, value in rows.items(True, True)}
