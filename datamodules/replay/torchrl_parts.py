"""The parts of TorchRL's replay buffers that are this project's own: storages that gather, samplers of windows.

Writing, priorities, locks, transforms and dumps are TorchRL's. Its names that begin with an underscore are used in this
file alone; the tests of each class fail where an upgrade changes them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import PrioritizedSampler, RandomSampler, RoundRobinWriter, SliceSampler, TensorStorage
from torchrl.data.replay_buffers import Sampler, Storage

from datamodules.replay.memory_mapped_rows import MemoryMappedRows
from datamodules.replay.ring_buffer import RingBuffer, WindowStarts, shift_to_ends
from modules.batch import path_of

MakeStorage = Callable[[int], Storage]
"""Makes one of TorchRL's storages of so many entries."""

MakeSampler = Callable[[], Sampler]
"""Makes one of TorchRL's samplers."""

SEQUENCE, PADDING, START_STATE = "sequence", "padding", "start_state"

APART = (PADDING, START_STATE)
"""Entries of a sequence that are no fields of an environment's rows."""


def gather(values: Tensor, index: Tensor) -> Tensor:
    """`values[index]` for `[N, ...]` values; byte rows are moved as 64-bit words, 13 times faster."""
    if values.dtype == torch.uint8 and values.ndim > 1 and values.is_contiguous() and values[0].numel() % 8 == 0:
        words = values.view(len(values), -1).view(torch.int64)
        return words.index_select(0, index).view(torch.uint8).view(len(index), *values.shape[1:])
    return values.index_select(0, index)


def in_turn(index: Any) -> Any:
    """The slice of places that follow each other, which is written several times faster; any other index as it is."""
    if isinstance(index, Tensor) and index.ndim == 1 and index.dtype == torch.int64:
        places = index.tolist()
        if places and places == list(range(places[0], places[0] + len(places))):
            return slice(places[0], places[0] + len(places))
    return index


# ------------------------------------------------------------------------------------------------------------ storages
class GatherStorage(TensorStorage):
    """A TensorStorage that gathers with `index_select`, several times faster than indexing; memory-mapped or not."""

    def __init__(self, rows: TensorDictBase, device: torch.device | str, ndim: int = 1) -> None:
        plain = {key: value.as_subclass(Tensor) for key, value in rows.items(True, True)}
        super().__init__(TensorDict(plain, rows.batch_size), device=device, ndim=ndim)
        self._fields = {key: value.flatten(0, ndim - 1) for key, value in plain.items()}

    def get(self, index: Any) -> TensorDictBase:
        if not (isinstance(index, Tensor) and index.ndim == 1):
            return super().get(index)
        return TensorDict({key: gather(value, index) for key, value in self._fields.items()}, [len(index)])


class SubsetStorage(GatherStorage):
    """Some rows of a table, counted from 0, so that any sampler keeps to them: a training split, or a rank's share of a
    memory-mapped file.

    Args:
        rows: `[N]` rows.
        device: device of the rows.
        chosen: `[n]` numbers of those that are stored.
    """

    def __init__(self, rows: TensorDictBase, device: torch.device | str, chosen: Tensor) -> None:
        super().__init__(rows, device)
        self.chosen = chosen.to(device)
        self.max_size = len(chosen)
        self._len = len(chosen)

    def get(self, index: Any) -> TensorDictBase:
        is_list = isinstance(index, Tensor) and index.dtype == torch.int64 and index.ndim == 1
        return super().get(self.chosen.index_select(0, index) if is_list else self.chosen[index])


class RowStorage(GatherStorage):
    """`[R, N]` rows of `N` streams in memory-mapped files, a ring that TorchRL's RoundRobinWriter writes.

    `set` is overridden to write slices, to find a full disk before it ends the process, and to give pages back; `get`
    to gather windows time-major: an index `(time, stream)` of `[B, T]` each gives rows contiguous as `[T, B]`.

    Args:
        files: files with `R * N` rows.
        ring: where the streams are in them.
    """

    def __init__(self, files: MemoryMappedRows, ring: RingBuffer) -> None:
        size = (ring.length, ring.streams)
        rows = {path_of(name): values.unflatten(0, size) for name, values in files.values.items()}
        super().__init__(TensorDict(rows, size), "cpu", ndim=2)
        self.max_size = files.rows
        self._files = files
        self._ring = ring
        assert self._total_shape == size  # looked up once, which counts rows that are not there yet
        self.go_on(0)

    def go_on(self, count: int) -> None:
        """Hold the rows of the files as if so many had been written to each stream."""
        self._ring.go_on(count, self._ring.length)
        self.hold(count)
        self._bump_mutation_revision()

    def hold(self, count: int) -> None:
        """Tell TorchRL how many rows there are, and which is the newest, when so many have been written."""
        self._len = min(count, self._ring.length) * self._ring.streams
        self._set_last_cursor((count - 1) % self._ring.length if count else None)

    def set(self, cursor: Any, data: Any, *, set_cursor: bool = True) -> None:
        count = self._ring.count
        self._files.reserve(min(count, self._ring.length) * self._ring.streams)
        super().set(in_turn(cursor), data, set_cursor=False)
        if set_cursor:
            self.hold(count)
        self._files.count = count
        if isinstance(cursor, Tensor):
            self._files.touched(cursor.numel() * self._ring.streams)

    def ends(self, windows: WindowStarts, length: int) -> Tensor:
        """`[T, B]` rows of windows that are the last ones of their episodes: read without the other fields."""
        place = self._ring.places(windows, length)
        flat = place.flatten()
        found = gather(self._fields["terminated"], flat) | gather(self._fields["truncated"], flat)
        return found.view(place.shape)

    def get(self, index: Any) -> TensorDictBase:
        if not (isinstance(index, tuple) and all(isinstance(part, Tensor) for part in index)):
            return super(GatherStorage, self).get(index)
        time, stream = index
        place = time * self._ring.streams + stream
        self._files.touched(place.numel())
        if place.ndim == 1:
            return super().get(place)
        turned = place.transpose(0, 1)
        flat = turned.flatten()
        return TensorDict(
            {
                key: gather(value, flat).view(*turned.shape, *value.shape[1:]).transpose(0, 1)
                for key, value in self._fields.items()
            },
            place.shape,
            device="cpu",
        )


class SequenceStorage(GatherStorage):
    """Slots for as many sequences as can be drawn, in memory-mapped files with more places than that.

    A slot stands for the newest sequence whose number leaves it as the remainder, and the place of a sequence is the
    remainder of its number by the number of places: so the files still hold the sequences that TorchRL's writer has
    replaced since a checkpoint. `set` and `get` are overridden for this, `get` also to gather rows time-major.

    An entry has `sequence` `[L]` with the fields of its rows, `padding` `[L]`, and `start_state` `[W]` if it is kept.

    Args:
        files: files with a place for each sequence.
        ring: ring that says which sequences are in them.
        length: rows of a sequence `L`.
    """

    def __init__(self, files: MemoryMappedRows, ring: RingBuffer, length: int) -> None:
        fields = {name: values for name, values in files.values.items() if name in APART}
        rows = {path_of(name): values for name, values in files.values.items() if name not in APART}
        size = [ring.length]
        super().__init__(TensorDict({SEQUENCE: TensorDict(rows, [*size, length]), **fields}, size), "cpu")
        self.max_size = ring.capacity
        self._files = files
        self._ring = ring
        self._rows = torch.arange(length).unsqueeze(1)
        self.go_on(0)

    def go_on(self, count: int) -> None:
        """Hold the sequences of the files as if so many had been written."""
        self._ring.go_on(count, self._ring.capacity)
        self.hold(count)
        self._bump_mutation_revision()

    def hold(self, count: int) -> None:
        """Tell TorchRL how many sequences there are, and which is the newest, when so many have been written."""
        self._len = min(count, self._ring.capacity)
        self._set_last_cursor((count - 1) % self._ring.capacity if count else None)

    def place(self, slot: Tensor) -> Tensor:
        """Places of the sequences in slots."""
        return self._ring.numbers(slot) % self._ring.length

    def set(self, cursor: Any, data: Any, *, set_cursor: bool = True) -> None:
        slots = cursor if isinstance(cursor, Tensor) else torch.arange(self.max_size)[cursor]
        place = self.place(slots)
        self._files.reserve(min(self._ring.count, self._ring.length))
        super().set(in_turn(place), data, set_cursor=False)
        if set_cursor:
            self.hold(self._ring.count)
        self._files.count = self._ring.count
        self._files.touched(slots.numel())

    def get(self, index: Any) -> TensorDictBase:
        slots = index if isinstance(index, Tensor) else torch.arange(len(self))[index]
        if slots.ndim != 1:
            return self.get(slots.flatten()).view(slots.shape)
        place, length = self.place(slots), len(self._rows)
        self._files.touched(2 * len(place))  # what is not of a row lies apart
        rows = (place * length + self._rows).flatten()
        by_sequence: dict[str, Any] = {}
        by_row: dict[Any, Tensor] = {}
        for key, value in self._fields.items():
            if key == START_STATE:
                by_sequence[key] = gather(value, place)
                continue
            taken = gather(value.flatten(0, 1), rows).view(length, len(place), *value.shape[2:]).transpose(0, 1)
            if isinstance(key, tuple):
                by_row[key[1:]] = taken
            else:
                by_sequence[key] = taken
        sequence = TensorDict(by_row, [len(place), length], device="cpu")
        return TensorDict({SEQUENCE: sequence, **by_sequence}, [len(place)], device="cpu")


class StreamWriter(RoundRobinWriter):
    """TorchRL's RoundRobinWriter, which names the places of rows of streams in one step where TorchRL's takes eight.

    For a single row of each stream, those cost as much as to write it.
    """

    def _replicate_index(self, index: int | Tensor) -> int | Tensor:
        shape = self._storage.shape
        if len(shape) != 2:
            return super()._replicate_index(index)
        time = torch.as_tensor(index).reshape(-1)
        return torch.cartesian_prod(time, torch.arange(shape[1], device=time.device))


# ------------------------------------------------------------------------------------------------------------ samplers
class WindowSampler(RandomSampler):
    """Uniform windows of consecutive rows of a ring, whatever episodes are in them.

    TorchRL's SliceSampler draws within episodes alone, and reads all flags of a storage for it.

    Args:
        ring: ring that the rows are in.
        length: rows of a window `T`. The size of a batch counts rows, as it does for a SliceSampler.
        prioritize_ends: shift windows to the end of their first episode, see `shift_to_ends`.
    """

    def __init__(self, ring: RingBuffer, length: int, prioritize_ends: bool = False) -> None:
        super().__init__()
        self.ring = ring
        self.length = length
        self.prioritize_ends = prioritize_ends

    def sample(self, storage: Storage, batch_size: int) -> tuple[Any, dict[str, Any]]:
        if batch_size < self.length:
            raise ValueError(f"{batch_size} rows are less than one window; sample {self.length} or more")
        windows = self.draw(batch_size // self.length)
        if self.prioritize_ends:
            if isinstance(storage, RowStorage):
                ends = storage.ends(windows, self.length)
            else:
                rows, (time, stream) = storage[:], self.ring.index(windows, self.length)  # views of all rows
                ends = (rows["terminated"][time, stream] | rows["truncated"][time, stream]).t()
            windows = shift_to_ends(windows, ends, self.ring.oldest)
        return self.ring.index(windows, self.length), {}

    def draw(self, count: int) -> WindowStarts:
        """Uniform windows of the ring."""
        return self.ring.draw(count, self.length, self._rng)


class LatestSampler(RandomSampler):
    """The newest window of every stream, which begins at the row that the one before ended at.

    Args:
        ring: ring that the rows are in.
        length: rows of a window at least; it has at most twice as many.
    """

    def __init__(self, ring: RingBuffer, length: int) -> None:
        super().__init__()
        self.ring = ring
        self.length = length
        self._learned = 0  # rows written when the latest window was drawn

    def sample(self, storage: Storage, batch_size: int) -> tuple[Any, dict[str, Any]]:
        count = self.ring.count
        since = count - self._learned + 1
        length = max(self.length, min(since, 2 * self.length, count - self.ring.oldest))
        windows = self.ring.newest(length)
        self._learned = count
        return self.ring.index(windows, length), {}

    def state_dict(self) -> dict[str, Any]:
        return {"learned": self._learned}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self._learned = state_dict["learned"]

    def dumps(self, path: Any) -> None:
        Path(path).mkdir(parents=True, exist_ok=True)
        (Path(path) / "latest.json").write_text(json.dumps(self.state_dict()))

    def loads(self, path: Any) -> None:
        self.load_state_dict(json.loads((Path(path) / "latest.json").read_text()))

    def _empty(self) -> None:
        self._learned = 0


class EpisodeSampler(SliceSampler):
    """TorchRL's SliceSampler for rows of parallel streams, with arguments that a config file can hold.

    Args:
        slice_len: rows of a window, all of one episode; shorter episodes are never drawn.
    """

    def __init__(self, slice_len: int) -> None:
        super().__init__(slice_len=slice_len, end_keys=["terminated", "truncated"], truncated_key=None)


def plain_copy(state: Mapping[str, Any]) -> dict[str, Any] | None:
    """A copy of a sampler's state for a checkpoint; None where it holds more than tensors and plain values."""
    if not all(value is None or isinstance(value, Tensor | bool | int | float | str) for value in state.values()):
        return None
    # Clones, as a view would be saved with all that it is a view of.
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}


def stored_priorities(sampler: PrioritizedSampler, slots: Tensor) -> dict[str, Any]:
    """The priorities of slots as a sampler holds them, and the greatest so far, for `load_priorities`."""
    state = sampler.state_dict()
    return {"priorities": torch.as_tensor(state["_sum_tree"][slots]), "greatest": state["_max_priority"]}


def load_priorities(sampler: PrioritizedSampler, slots: Tensor, saved: Mapping[str, Any]) -> None:
    """Fill a sampler with numbers as its trees hold them: to make them anew from priorities could round them."""
    state = sampler.state_dict()
    state["_sum_tree"][slots] = saved["priorities"]
    state["_min_tree"][slots] = saved["priorities"]
    sampler.load_state_dict({**state, "_max_priority": saved["greatest"]})
