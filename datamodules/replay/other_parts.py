"""Storages and samplers that a config names in place of a replay's own: made, and refused where they do not fit."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torchrl.data import PrioritizedSampler, SliceSampler, TensorStorage
from torchrl.data.replay_buffers import ConsumingSampler, Sampler, Storage

from datamodules.replay.torchrl_parts import MakeSampler, MakeStorage
from modules.trust.names import cut

STORAGES = "use torchrl.data.LazyTensorStorage or torchrl.data.LazyMemmapStorage"
"""Advice for a storage that does not fit."""


def class_of(make: Callable[..., Any]) -> Callable[..., Any]:
    """The class that a partial call makes, of Python's or of a config, which hands the class to a function."""
    parts = (getattr(make, "func", make), *getattr(make, "args", ()))
    return next((part for part in parts if isinstance(part, type)), parts[0])


def arguments_of(make: Callable[..., Any] | None) -> dict[str, str]:
    """Arguments of a partial call by name, as texts."""
    return {name: cut(repr(value), 100) for name, value in getattr(make, "keywords", {}).items()}


def make_storage(make: MakeStorage, entries: int, ndim: int) -> Storage:
    """A storage of so many entries, whose tensors a checkpoint can keep.

    Raises:
        ValueError: it is another storage, or an argument does not fit.
    """
    kind = class_of(make)
    name = kind.__name__
    made_by_it = kind.__init__ if isinstance(kind, type) else kind  # type: ignore[misc]  # of the class, not an instance
    taken = list(inspect.signature(made_by_it).parameters)
    if "max_size" in taken[2:]:
        raise ValueError(f"storage: {name} is made of {taken[1]} that is there, not of a number of rows; {STORAGES}")
    if "max_size" in getattr(make, "keywords", {}):
        raise ValueError(f"storage: max_size of {name} follows from data.capacity; leave max_size out of its init_args")
    if isinstance(kind, type) and not issubclass(kind, TensorStorage):
        raise ValueError(f"storage: {name} holds no rows in tensors, as checkpoints keep them; {STORAGES}")
    try:
        storage = make(entries, ndim=ndim)  # type: ignore[call-arg]  # all storages of tensors have it
    except TypeError as error:
        raise ValueError(f"storage: {name}: {cut(str(error), 250)}") from error
    if not isinstance(storage, TensorStorage):
        raise ValueError(f"storage: {type(storage).__name__} holds no rows in tensors; {STORAGES}")
    return storage


def make_sampler(make: MakeSampler, advice: str) -> Sampler:
    """A sampler.

    Raises:
        ValueError: an argument does not fit, or it is something else; with advice.
    """
    try:
        sampler = make()
    except TypeError as error:
        raise ValueError(f"sampler: {cut(str(error), 250)}") from error
    if not isinstance(sampler, Sampler):
        raise ValueError(f"sampler: {type(sampler).__name__} is no sampler of TorchRL's; {advice}")
    return sampler


def make_slices(make: MakeSampler, windows: int, length: int) -> Sampler:
    """A sampler whose batches are `windows` slices of `length` rows.

    Raises:
        ValueError: it draws something else.
    """
    own = f"use datamodules.replay.torchrl_parts.EpisodeSampler with slice_len {length}, or leave sampler out"
    sampler = make_sampler(make, own)
    name = type(sampler).__name__
    if not isinstance(sampler, SliceSampler):
        raise ValueError(f"sampler: {name} draws single rows, which are no windows of consecutive ones; {own}")
    if isinstance(sampler, PrioritizedSampler):
        raise ValueError(f"sampler: {name}: rows of a SequenceReplay have no priorities; {own}")
    if sampler.slice_len not in (None, length):
        raise ValueError(
            f"sampler: {name} draws windows of {sampler.slice_len} rows, and sequence_length is {length}; set "
            f"slice_len to {length}"
        )
    if sampler.num_slices not in (None, windows):
        raise ValueError(
            f"sampler: {name} draws {sampler.num_slices} windows, and batch_size is {windows}; set num_slices to "
            f"{windows}"
        )
    if not sampler.strict_length or any(sampler.span):
        raise ValueError(f"sampler: {name} may draw shorter windows; leave strict_length and span out")
    return sampler


def make_drawing(make: MakeSampler, entries: int) -> Sampler:
    """A sampler that draws some of so many entries, one by one.

    Raises:
        ValueError: it draws slices, has the buffer write in another order, or has no room for as many priorities.
    """
    others = "use torchrl.data.RandomSampler, or leave sampler out"
    sampler = make_sampler(make, others)
    name = type(sampler).__name__
    if isinstance(sampler, SliceSampler):
        raise ValueError(f"sampler: {name} draws slices of rows, but entries are whole sequences here; {others}")
    if isinstance(sampler, ConsumingSampler):
        raise ValueError(f"sampler: {name} has places of entries used again, which are a ring here; {others}")
    if isinstance(sampler, PrioritizedSampler) and sampler.max_size < entries:
        raise ValueError(
            f"sampler: {name} has room for {sampler.max_size} priorities, and the replay holds {entries} sequences; "
            f"set max_capacity to {entries}"
        )
    return sampler
