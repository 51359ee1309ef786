"""Replay of parallel streams of experience: windows of consecutive rows, on TorchRL, in memory-mapped files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data.replay_buffers import Sampler

from datamodules.replay.buffered import BufferedReplay
from datamodules.replay.other_parts import make_slices
from datamodules.replay.ring_buffer import RingBuffer
from datamodules.replay.streams import ReplaySettings
from datamodules.replay.torchrl_parts import (
    LatestSampler,
    MakeSampler,
    MakeStorage,
    RowStorage,
    StreamWriter,
    WindowSampler,
)
from modules.batch import path_of
from modules.contracts import ReplayOffer


class SequenceReplay(BufferedReplay):
    """Windows of `N` parallel streams of experience; the rows are those of `modules.batch.SequenceBatch`.

    `buffer` is a TorchRL ReplayBuffer of `[R, N]` rows. The size of its batches counts rows, as TorchRL's SliceSampler
    has it. Three parts of it are this project's own: the storage, which gathers windows several times faster than
    indexing does and lies in files, see `RowStorage`; the sampler, as TorchRL has none of windows that may hold the end
    of an episode, see `WindowSampler`; and one step of TorchRL's writer, see `StreamWriter`.

    Args:
        settings: settings of the datamodule.
        prioritize_ends: shift windows to the end of their first episode, see `shift_to_ends`.
        storage: another storage of TorchRL's with two dimensions, such as `torchrl.data.LazyTensorStorage`.
        sampler: another sampler of TorchRL's, such as `torchrl.data.SliceSampler`, of which
            `datamodules.replay.torchrl_parts.EpisodeSampler` is a form for config files. It draws `B * T` rows at once,
            which are taken as `B` windows of one length.
    """

    ndim: ClassVar[int] = 2

    def __init__(
        self,
        settings: ReplaySettings,
        *,
        prioritize_ends: bool = False,
        storage: MakeStorage | None = None,
        sampler: MakeSampler | None = None,
    ) -> None:
        margin = settings.margin if storage is None and sampler is None else 0
        ring = RingBuffer(settings.streams, settings.capacity, margin, StreamWriter())
        super().__init__(settings, ring, settings.row_fields(), storage, sampler)
        self.prioritize_ends = prioritize_ends
        self.rows_needed = settings.length

    def __len__(self) -> int:
        """Rows of each stream that can be sampled."""
        return self.ring.count - self.ring.oldest

    @property
    def different(self) -> int:
        """Rows at which a window can begin."""
        return self.ring.streams * (self.ring.capacity - self.rows_needed + 1)

    def extend(self, rows: TensorDictBase) -> None:
        """Add `[t, N]` rows of all streams behind the newest ones."""
        self.buffer.extend(rows)

    def sample(self) -> TensorDict:
        """`[B, T]` windows; a view of tensors that are contiguous as `[T, B]`.

        Raises:
            ValueError: there are not enough rows yet, or another sampler's rows are no windows of one length.
        """
        try:
            batch = self.buffer.sample()
        except (RuntimeError, KeyError) as error:
            if self._sampler is None:
                raise
            raise ValueError(f"sampler: {type(self.buffer.sampler).__name__}: {error}") from error
        if batch.ndim == 2:
            return batch
        windows = self.settings.batch_size
        if len(batch) % windows:
            raise ValueError(
                f"sampler: {type(self.buffer.sampler).__name__} drew {len(batch)} rows, which are no {windows} windows "
                f"of one length; let it draw {windows} of {self.settings.length} rows"
            )
        return batch.view(windows, -1).transpose(0, 1).contiguous().transpose(0, 1)

    def sample_windows(self, count: int, length: int, generator: torch.Generator) -> TensorDict:
        """`[count, length]` uniform windows that leave the own generator untouched."""
        return self.buffer.storage.get(self.ring.index(self.ring.draw(count, length, generator), length))

    # ------------------------------------------------------------------------------------------------- parts of TorchRL
    def _own_storage(self) -> RowStorage:
        return RowStorage(self.files, self.ring)

    def _other_sampler(self, make: MakeSampler) -> Sampler:
        return make_slices(make, self.settings.batch_size, self.settings.length)

    def _entries_of(self, rows: Mapping[str, Tensor]) -> TensorDict:
        size = (-1, self.ring.streams)
        entries = {path_of(name): values.unflatten(0, size) for name, values in rows.items()}
        return TensorDict(entries, [len(rows["reward"]) // self.ring.streams, self.ring.streams])

    def _key_of(self, field: str) -> tuple[str, ...]:
        return path_of(field)

    def _own_sampler(self) -> Sampler:
        return WindowSampler(self.ring, self.settings.length, self.prioritize_ends)

    def _drawn_at_once(self) -> int:
        return self.settings.batch_size * self.settings.length

    def _own_form(self) -> dict[str, Any]:
        return {"streams": self.ring.streams}


class LatestWindows(SequenceReplay):
    """The newest window of every stream, for agents that learn from what their present policy does.

    A window begins at the row that the one before ended at, so that every step is learned from once. With
    `updates_per_step: 1 / (N (T - 1))` it has `T` rows, and one more for each reset that came in between, as a reset is
    a row but no step: in episodes of 9 steps some 12 for 11, in those of a single step 21. It has at least `T` rows,
    older ones where there are not enough new ones, and at most `2 T`: with fewer updates than that, or a longer
    prefill, rows before those are not learned from.

    Args:
        settings: settings of the datamodule.
        storage: see `SequenceReplay`.

    Raises:
        ValueError: a batch is not one window of each stream, or a window has a single row and so no step.
    """

    def __init__(self, settings: ReplaySettings, *, storage: MakeStorage | None = None) -> None:
        if settings.batch_size != settings.streams:
            raise ValueError(
                f"batch_size: {settings.batch_size}: LatestWindows has one window of each environment, and there are "
                f"{settings.streams}; set batch_size to {settings.streams}"
            )
        if settings.length < 2:
            raise ValueError(
                f"sequence_length: {settings.length}: a window of LatestWindows begins at the row that the one before "
                "ended at; set sequence_length to 2 or more"
            )
        super().__init__(settings, storage=storage)

    @property
    def offer(self) -> ReplayOffer:
        """As of all windows, that they are fresh, and the steps of a batch in which no episode starts."""
        return super().offer._replace(fresh=True, steps=self.settings.batch_size * (self.settings.length - 1))

    def _own_sampler(self) -> Sampler:
        return LatestSampler(self.ring, self.settings.length)

    def load_state_dict(self, state: Any) -> bool:
        same = super().load_state_dict(state)
        if not same:
            self.buffer.sampler.load_state_dict({"learned": self.ring.count})
        return same
