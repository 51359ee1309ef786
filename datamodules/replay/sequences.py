"""Replay of parallel streams of experience: windows of consecutive rows, on TorchRL, in memory-mapped files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import RandomSampler, ReplayBuffer
from torchrl.data.replay_buffers import Storage
from torchrl.data.replay_buffers.writers import Writer

from datamodules.replay.checksums import RowChecksums
from datamodules.replay.memory_mapped_rows import Field, MemoryMappedRows, describe_layout, read_layout
from datamodules.replay.ring_buffer import RingBuffer, WindowStarts, shift_to_ends
from datamodules.replay.streams import ObservationFields, StreamReplay, row_fields
from datamodules.replay.transitions import GatherStorage
from modules.batch import by_name, path_of


class StreamWriter(Writer):
    """Writes `[t, N]` rows behind the newest ones."""

    def __init__(self, ring: RingBuffer, files: MemoryMappedRows) -> None:
        super().__init__()
        self._ring, self._files = ring, files

    def extend(self, data: TensorDictBase) -> Tensor:
        ring, files = self._ring, self._files
        steps = len(data)
        assert steps <= ring.length
        spans = ring.spans(ring.count, ring.count + steps)
        files.reserve(max(b for _, b in spans))
        for name, value in by_name(data).items():
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
    """Windows of a ring, as `draw` finds them and their length at each sampling; their rows come time-major."""

    def __init__(self, ring: RingBuffer, files: MemoryMappedRows, draw: Callable[[], tuple[WindowStarts, int]]) -> None:
        super().__init__()
        self._ring, self._files, self._draw = ring, files, draw

    def sample(self, storage: Storage, batch_size: int) -> tuple[Tensor, dict[str, Any]]:
        windows, length = self._draw()
        self._files.touched(batch_size * length)
        return self._ring.window_rows(windows, length).flatten(), {}


class SequenceReplay(StreamReplay):
    """Windows of `N` parallel streams of experience; the rows are those of `modules.batch.SequenceBatch`.

    The rows are in memory-mapped files, which grow as they are written and are kept for a resume. Nothing is opened
    before the first rows are written or a state is loaded.

    Args:
        folder: for the files.
        observation: kind of the observation, or of each of its keys.
        action: kind of the action.
        streams: `N`.
        capacity: rows of each stream that can be sampled; the oldest ones are dropped.
        margin: rows of each stream that can be written after a checkpoint without a trace in it, see `RingBuffer`.
        batch_size: windows per batch `B`.
        length: rows of a window `T`.
        prioritize_ends: shift windows to the end of their first episode, see `shift_to_ends`.
        seed: of the windows.
        stored_width: width of what is kept of the agent's state with every row; 0 for nothing.
    """

    def __init__(
        self,
        folder: Path,
        observation: ObservationFields,
        action: Field,
        *,
        streams: int,
        capacity: int,
        margin: int,
        batch_size: int,
        length: int,
        prioritize_ends: bool = False,
        seed: int = 0,
        stored_width: int = 0,
    ) -> None:
        self.fields = row_fields(observation, action, stored_width)
        self.folder, self.batch_size, self.length, self.prioritize_ends = folder, batch_size, length, prioritize_ends
        self.rows_needed = length
        self.ring = RingBuffer(streams, capacity, margin)
        self.generator = torch.Generator().manual_seed(seed)
        self._buffer: ReplayBuffer | None = None
        self._files: MemoryMappedRows | None = None

    def __len__(self) -> int:
        """Rows of each stream that can be sampled."""
        return self.ring.count - self.ring.oldest

    def _open(self) -> tuple[ReplayBuffer, MemoryMappedRows]:
        if self._buffer is None or self._files is None:
            self._files = MemoryMappedRows(self.folder, self.fields, self.ring.length * self.ring.streams)
            self._checksums = RowChecksums(self.ring, self._files)
            values = {path_of(name): value for name, value in self._files.values.items()}
            self._buffer = ReplayBuffer(
                storage=GatherStorage(TensorDict(values, [self._files.rows]), "cpu"),
                sampler=WindowSampler(self.ring, self._files, self._draw),
                writer=StreamWriter(self.ring, self._files),
                collate_fn=self._windows,
                batch_size=self.batch_size,
            )
        return self._buffer, self._files

    def _draw(self) -> tuple[WindowStarts, int]:
        windows = self.ring.draw(self.batch_size, self.length, self.generator)
        if self.prioritize_ends:
            flags = self._open()[1].values
            place = self.ring.window_rows(windows, self.length)
            ends = flags["terminated"].take(place) | flags["truncated"].take(place)
            windows = shift_to_ends(windows, ends, self.ring.oldest)
        return windows, self.length

    def _windows(self, rows: TensorDictBase) -> TensorDict:
        return batch_major(rows, rows.shape[0] // self.batch_size)

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
    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, with all rows on disk: the rows themselves stay in the folder."""
        _, files = self._open()
        files.flush()
        return {
            "layout": describe_layout(self.fields, files.rows),
            "streams": self.ring.streams,
            "capacity": self.ring.capacity,
            "folder": str(self.folder.absolute()),
            "count": self.ring.count,
            "checksum": self._checksums.by_field(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Continue with the rows of a checkpoint, from its folder where this one is another.

        Returns:
            Whether these are exactly its rows. If not, the replay holds the newest rows of the folder, or none.

        Raises:
            ValueError: the checkpoint's replay is of another layout, or its rows are damaged.
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
        moved = read_layout(self.folder) != layout
        if moved and read_layout(source) != layout:
            return False
        _, files = self._open()
        if moved:
            files.copy_from(source, self.ring.streams)
        self.ring.count = state["count"]
        if self._checksums.are(state["checksum"], source if moved else self.folder):
            return True
        self.ring.count = files.count
        return False


class LatestWindows(SequenceReplay):
    """The newest window of every stream, for agents that learn from what their present policy does.

    A window begins at the row that the one before ended at, so that every step is learned from once. With
    `updates_per_step: 1 / (N (T - 1))` it has `T` rows, and one more for each reset that came in between, as a reset is
    a row but no step: in episodes of 9 steps some 12 for 11, in those of a single step 21. It has at least `T` rows,
    older ones where there are not enough new ones, and at most `2 T`: with fewer updates than that, or a longer
    prefill, rows before those are not learned from. The arguments are those of `SequenceReplay`.

    Raises:
        ValueError: a batch is not one window of each stream, or a window has a single row and so no step.
    """

    def __init__(
        self,
        folder: Path,
        observation: ObservationFields,
        action: Field,
        *,
        streams: int,
        capacity: int,
        margin: int,
        batch_size: int,
        length: int,
        seed: int = 0,
        stored_width: int = 0,
    ) -> None:
        if batch_size != streams:
            raise ValueError(
                f"batch_size: {batch_size}: LatestWindows has one window of each environment, and there are {streams}; "
                f"set batch_size to {streams}"
            )
        if length < 2:
            raise ValueError(
                f"sequence_length: {length}: a window of LatestWindows begins at the row that the one before ended at; "
                "set sequence_length to 2 or more"
            )
        super().__init__(
            folder, observation, action, streams=streams, capacity=capacity, margin=margin, batch_size=batch_size,
            length=length, seed=seed, stored_width=stored_width,
        )  # fmt: skip

        self._learned = 0  # rows written when the latest window was drawn

    def _draw(self) -> tuple[WindowStarts, int]:
        since = self.ring.count - self._learned + 1
        length = max(self.length, min(since, 2 * self.length, len(self)))
        windows = self.ring.newest(length)
        self._learned = self.ring.count
        return windows, length

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "learned": self._learned}

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        same = super().load_state_dict(state)
        self._learned = state["learned"] if same else self.ring.count
        return same


def batch_major(rows: TensorDictBase, length: int) -> TensorDict:
    """`[T * B]` time-major rows as a `[B, T]` view."""
    size = [rows.shape[0] // length, length]
    fields: dict[tuple[str, ...], Tensor] = {}
    for name, value in by_name(rows).items():
        fields[path_of(name)] = value.view(length, size[0], *value.shape[1:]).transpose(0, 1)
    return TensorDict(fields, size, device="cpu")
