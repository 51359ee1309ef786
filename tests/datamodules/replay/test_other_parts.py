"""Storages and samplers that do not fit a replay are refused when it is made, in one line with what would fit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from torchrl.data import (
    LazyMemmapStorage,
    LazyStackStorage,
    LazyTensorStorage,
    ListStorage,
    PrioritizedSampler,
    RandomSampler,
    SamplerWithoutReplacement,
    SliceSampler,
    TensorStorage,
)
from torchrl.data.replay_buffers import ConsumingSampler, Sampler, Storage
from torchrl.data.replay_buffers.samplers import PrioritizedSliceSampler

from datamodules.replay.other_parts import arguments_of, class_of
from datamodules.replay.torchrl_parts import EpisodeSampler
from tests.helpers.small_replays import drawn, fill, make_rows, sequences, windows

TOLD = partial(PrioritizedSampler, max_capacity=1000, alpha=0.5, beta=0.5)
SLICES = partial(SliceSampler, end_keys=["terminated", "truncated"], truncated_key=None)


@pytest.mark.parametrize("make", [windows, sequences])
@pytest.mark.parametrize(
    ("storage", "message"),
    [
        (TensorStorage, "TensorStorage is made of storage that is there.*use torchrl.data.LazyTensorStorage or"),
        (ListStorage, "storage: ListStorage holds no rows in tensors.*use torchrl.data.LazyTensorStorage or"),
        (LazyStackStorage, "storage: LazyStackStorage holds no rows in tensors.*use torchrl.data.LazyTensorStorage or"),
        (partial(LazyTensorStorage, max_size=9), "max_size of LazyTensorStorage follows from data.capacity; leave"),
        (partial(LazyMemmapStorage, colour=9), "storage: .*LazyMemmapStorage.* unexpected keyword argument 'colour'"),
    ],
)
def test_a_storage_that_no_checkpoint_keeps_is_refused(tmp_path: Path, make: Any, storage: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        make(tmp_path, storage=storage)
    assert "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (RandomSampler, "RandomSampler draws single rows.*EpisodeSampler with slice_len 4, or leave sampler out"),
        (SamplerWithoutReplacement, "SamplerWithoutReplacement draws single rows"),
        (TOLD, "PrioritizedSampler draws single rows"),
        (partial(PrioritizedSliceSampler, 60, 0.5, 0.5, slice_len=4), "a SequenceReplay have no priorities"),
        (partial(EpisodeSampler, 3), "draws windows of 3 rows, and sequence_length is 4; set slice_len to 4"),
        (partial(SLICES, num_slices=4), "draws 4 windows, and batch_size is 5; set num_slices to 5"),
        (partial(SLICES, slice_len=4, strict_length=False), "may draw shorter windows; leave strict_length and span"),
        (partial(SLICES, slice_len=4, span=True), "may draw shorter windows"),
        (SliceSampler, "sampler: .*num_slices"),
        (partial(EpisodeSampler, 4, colour=1), "unexpected keyword argument 'colour'"),
        (dict, "dict is no sampler of TorchRL's; use datamodules.replay.torchrl_parts.EpisodeSampler"),
    ],
)
def test_a_sampler_that_draws_no_windows_is_refused(tmp_path: Path, sampler: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        windows(tmp_path, sampler=sampler)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("sampler", [partial(EpisodeSampler, 4), partial(SLICES, num_slices=5)])
def test_slices_of_the_right_size_are_windows(tmp_path: Path, sampler: Any) -> None:
    reward = fill(windows(tmp_path, sampler=sampler)).sample()["reward"]
    assert torch.equal(reward[:, 1:] - reward[:, :-1], torch.full((5, 3), 0.5))


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (partial(EpisodeSampler, 4), "EpisodeSampler draws slices of rows.*use torchrl.data.RandomSampler"),
        (partial(ConsumingSampler, max_sample_count=1), "ConsumingSampler has places of entries used again"),
        (partial(PrioritizedSampler, 59, 0.5, 0.5), "room for 59 priorities.* 60 sequences; set max_capacity to 60"),
    ],
)
def test_a_sampler_that_draws_no_sequences_is_refused(tmp_path: Path, sampler: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sequences(tmp_path, sampler=sampler)
    assert len(drawn(fill(sequences(tmp_path, sampler=partial(PrioritizedSampler, 60, 0.5, 0.5))))) == 4


def test_arguments_of_a_sampler_that_change_are_named_at_a_resume(tmp_path: Path) -> None:
    for parts in ({}, {"storage": LazyTensorStorage}):
        folder = tmp_path / str(len(parts))
        state = fill(sequences(folder, sampler=TOLD, **parts)).state_dict()
        with pytest.raises(ValueError, match=r"its alpha is 0\.5, the configured one 0\.9; use the run's own"):
            sequences(folder, sampler=partial(TOLD, alpha=0.9), **parts).load_state_dict(state)
        with pytest.raises(ValueError, match=r"its sampler is PrioritizedSampler, the configured one RandomSampler"):
            sequences(folder, sampler=RandomSampler, **parts).load_state_dict(state)


def test_the_parts_of_a_config_have_their_names() -> None:
    parser = ArgumentParser()
    parser.add_argument("--storage", type=Callable[[int], Storage])
    parser.add_argument("--sampler", type=Callable[[], Sampler])
    told = ["--storage", "torchrl.data.LazyMemmapStorage", "--sampler", "torchrl.data.SamplerWithoutReplacement"]
    made = parser.instantiate(parser.parse_args([*told, "--sampler.drop_last", "true"]))
    assert class_of(made.storage) is LazyMemmapStorage
    assert class_of(made.sampler) is SamplerWithoutReplacement
    assert arguments_of(made.sampler)["drop_last"] == "True"
    assert class_of(RandomSampler) is RandomSampler


def test_sizes_that_a_buffer_cannot_take_are_refused(tmp_path: Path) -> None:
    for storage in (None, LazyTensorStorage):
        replay = fill(windows(tmp_path / str(storage is None), storage=storage))
        with pytest.raises(ValueError, match="3 rows are less than one window; sample 4 or more"):
            replay.buffer.sample(3)
        count, most = replay.ring.count, replay.ring.length
        with pytest.raises(ValueError, match=f"{most + 1} entries do not fit: add {most} at once or fewer"):
            replay.buffer.extend(make_rows(53, 54 + most))
        assert replay.ring.count == count
