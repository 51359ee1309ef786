"""Replays that are TorchRL ReplayBuffers to the outside, and what a checkpoint finds of their rows again."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from pytorch_lightning.utilities import rank_zero_warn
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import LazyMemmapStorage
from torchrl.data.replay_buffers import Sampler

from datamodules.replay.checksums import RowChecksums, damaged
from datamodules.replay.kept_rows import changed_fields, find_rows, keep_rows
from datamodules.replay.memory_mapped_rows import (
    Field,
    MemoryMappedRows,
    describe_layout,
    field_bytes,
    read_count,
    read_layout,
    read_rows,
)
from datamodules.replay.other_parts import arguments_of, class_of, make_storage
from datamodules.replay.ring_buffer import RingBuffer
from datamodules.replay.streams import ReplaySettings, StreamReplay
from datamodules.replay.torchrl_parts import MakeSampler, MakeStorage, RowStorage, SequenceStorage, plain_copy
from datamodules.replay.watched_buffer import WatchedBuffer
from modules.arguments.memory import check_memory


class BufferedReplay(StreamReplay):
    """A replay whose entries lie in a TorchRL ReplayBuffer: `buffer`, which tells it of what comes by TorchRL's calls.

    The writer is TorchRL's RoundRobinWriter. Rows lie in memory-mapped files, which grow as they are written, are
    not opened before the first row is written or a state is loaded, and stay in place for a resume, which checks them.
    Rows of another storage are written into such files at every checkpoint. Another sampler draws from all rows of a
    storage, so that there is no margin for rows that are written after a checkpoint.

    Args:
        settings: settings of the datamodule.
        ring: ring that says which entries there are.
        fields: fields of an entry, by name.
        storage: makes the storage; None for the memory-mapped files.
        sampler: makes the sampler; None for the replay's own.

    Attributes:
        ndim: dimensions that entries are counted in.

    Raises:
        ValueError: the storage cannot be kept, or does not fit into memory, or the sampler draws something else.
    """

    ndim: ClassVar[int] = 1

    def __init__(
        self,
        settings: ReplaySettings,
        ring: RingBuffer,
        fields: Mapping[str, Field],
        storage: MakeStorage | None,
        sampler: MakeSampler | None,
    ) -> None:
        self.settings = settings
        self.folder = settings.folder
        self.ring = ring
        self.fields = dict(fields)
        self.generator = torch.Generator().manual_seed(settings.seed)
        self._storage = storage
        self._sampler = sampler
        self._entries = ring.length * ring.streams
        if storage is not None and class_of(storage) is not LazyMemmapStorage:
            size = sum(field_bytes(field) for field in self.fields.values()) * self._entries
            check_memory(f"a storage of data.capacity {settings.capacity * settings.streams}", size)
        self._made_storage = None if storage is None else make_storage(storage, self._entries, self.ndim)
        self._made_sampler = None if sampler is None else self._other_sampler(sampler)

    # ------------------------------------------------------------------------------------------------------ TorchRL's
    @property
    def in_files(self) -> bool:
        """Whether the entries are in the replay's own files."""
        return self._storage is None

    @functools.cached_property
    def files(self) -> MemoryMappedRows:
        """The files, opened at the first use."""
        return MemoryMappedRows(self.folder, self.fields, self._entries)

    @functools.cached_property
    def buffer(self) -> WatchedBuffer:
        """TorchRL's buffer, made at the first use."""
        return WatchedBuffer(
            watcher=self,
            storage=self._own_storage() if self._made_storage is None else self._made_storage,
            sampler=self._own_sampler() if self._made_sampler is None else self._made_sampler,
            writer=self.ring.writer,
            batch_size=self._drawn_at_once(),
            dim_extend=0,
            generator=self.generator,
        )

    @functools.cached_property
    def checksums(self) -> RowChecksums:
        """Checksums of the files' rows."""
        return RowChecksums(self.ring, self.files, self._apart())

    @property
    def most_at_once(self) -> int:
        """Entries that one call can add, along the first dimension."""
        return self.ring.length

    @property
    def different(self) -> int:
        """Entries that it can hold."""
        return self.ring.streams * self.ring.capacity

    @abstractmethod
    def _own_storage(self) -> RowStorage | SequenceStorage:
        """The storage of the files."""

    @abstractmethod
    def _other_sampler(self, make: MakeSampler) -> Sampler:
        """Another sampler, if it fits."""

    @abstractmethod
    def _own_sampler(self) -> Sampler:
        """The sampler, unless another one is asked for."""

    @abstractmethod
    def _drawn_at_once(self) -> int:
        """Entries of a batch."""

    def _apart(self) -> tuple[str, ...]:
        """Names of fields that change after they were written."""
        return ()

    def _go_on(self, count: int) -> None:
        """Hold the rows of the files as if so many entries had been written."""
        storage = self.buffer.storage
        assert isinstance(storage, RowStorage | SequenceStorage)
        storage.go_on(count)

    # --------------------------------------------------------------------------------- what TorchRL's own calls bring
    def written(self, index: Tensor) -> None:
        """Hear that entries were written, by whatever call; for a replay that keeps something by entry."""

    def rewritten(self, index: Tensor) -> None:
        """Hear that entries were given other contents in their places."""
        if self.in_files:
            self.checksums.forget()
        self.written(index)

    def beside(self) -> dict[str, Any]:
        """State that goes into TorchRL's dumps with the entries."""
        return {}

    def restored(self, beside: Mapping[str, Any] | None) -> None:
        """Hear that the buffer is empty, or holds the entries of a dump with what was kept beside them, if known."""
        if self.in_files:
            self.files.count = self.ring.count
            self.checksums.forget()

    # ---------------------------------------------------------------------------------------------------- exact resume
    @abstractmethod
    def _own_form(self) -> dict[str, Any]:
        """The entries that the replay of a checkpoint must agree in, besides its files."""

    def _form(self) -> dict[str, Any]:
        named = {"storage": self._storage, "sampler": self._sampler}
        return {
            **{name: None if made is None else class_of(made).__name__ for name, made in named.items()},
            **self._own_form(),
            "layout": describe_layout(self.fields, self._entries),
            "capacity": self.ring.capacity,
        }

    def state_dict(self) -> dict[str, Any]:
        """The entries of a checkpoint, with all rows on disk: the rows themselves stay in the folder."""
        sampler_state = self._sampler_state()
        if self.in_files:
            self.files.flush()
            checksum = self.checksums.by_field()
        else:
            checksum = self._keep_storage()
        return {
            **self._form(),
            "sampler_arguments": arguments_of(self._sampler),
            "folder": str(self.folder.absolute()),
            "count": self.ring.count,
            "generator": self.generator.get_state(),
            "sampler_state": sampler_state,
            "checksum": checksum,
        }

    def _sampler_state(self) -> dict[str, Any] | None:
        return plain_copy(self.buffer.sampler.state_dict())

    def _load_sampler(self, state: Mapping[str, Any]) -> None:
        sampler = self.buffer.sampler
        if state["sampler_state"] is None:
            rank_zero_warn(f"sampler: the checkpoint holds no state of {type(sampler).__name__}, which starts anew")
        else:
            sampler.load_state_dict(state["sampler_state"])

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Continue with the rows of a checkpoint, from its folder where this one is another.

        Returns:
            Whether these are exactly its rows. If not, the replay holds the newest rows of the folder, or none.

        Raises:
            ValueError: the checkpoint's replay is of another form, or its rows are damaged.
        """
        for name, value in self._form().items():
            if state.get(name) != value:
                raise ValueError(
                    f"the checkpoint's replay does not fit the configured one: its {name} is {state.get(name)}, the "
                    f"configured one {value}; use the run's own config.yaml"
                )
        saved, told = state["sampler_arguments"], arguments_of(self._sampler)
        for name in sorted({*saved, *told}):
            if saved.get(name) != told.get(name):
                raise ValueError(
                    f"the checkpoint's sampler does not fit the configured one: its {name} is {saved.get(name)}, the "
                    f"configured one {told.get(name)}; use the run's own config.yaml"
                )
        source = Path(state["folder"])
        same = self._load_files(state, source) if self.in_files else self._load_storage(state, source)
        self.generator.set_state(state["generator"])
        return same

    def _load_files(self, state: Mapping[str, Any], source: Path) -> bool:
        layout = state["layout"]
        moved = read_layout(self.folder) != layout
        if moved and read_layout(source) != layout:
            return False
        files = self.files
        if moved:
            files.copy_from(source, self.ring.streams)
        self._go_on(state["count"])
        if self.checksums.are(state["checksum"], source if moved else self.folder):
            self._load_sampler(state)
            return True
        self._go_on(files.count)
        return False

    # ------------------------------------------------------------------------------------ exact resume: another storage
    @abstractmethod
    def _entries_of(self, rows: Mapping[str, Tensor]) -> TensorDict:
        """Entries as the buffer takes them, of `[n, ...]` rows of the fields."""

    @abstractmethod
    def _key_of(self, field: str) -> tuple[str, ...]:
        """Keys of a field in an entry of the buffer."""

    def _keep_storage(self) -> dict[str, int]:
        """Write all rows, the oldest first; their checksums by field."""
        ring = self.ring
        if not ring.count:
            return {}
        entries = self.buffer.storage[:]
        parts = (
            {name: entries[self._key_of(name)][a:b].reshape(-1, *field.shape) for name, field in self.fields.items()}
            for a, b in ring.spans(ring.oldest, ring.count)
        )
        return keep_rows(self.folder, self.fields, self._entries, parts, ring.count)

    def _load_storage(self, state: Mapping[str, Any], source: Path) -> bool:
        if not state["count"]:
            return True
        kept = find_rows((self.folder, source), self.fields, self._entries)
        if kept is None:
            return False
        count = state["count"]
        rows = read_rows(kept, self.fields, min(count, self.ring.capacity) * self.ring.streams)
        changed = changed_fields(rows, state["checksum"])
        if changed and read_count(kept) == count:
            raise ValueError(damaged(kept, changed[0]))
        if changed:  # they are of a later checkpoint, or of an earlier one
            count = read_count(kept)
            rows = read_rows(kept, self.fields, min(count, self.ring.capacity) * self.ring.streams)
        if count:
            self.ring.go_on(max(0, count - self.ring.capacity), self.ring.length)
            self.buffer.extend(self._entries_of(rows))
        if not changed:
            self._load_sampler(state)
        return not changed
