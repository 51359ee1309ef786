"""Batches of recorded rows by other samplers of TorchRL's: each row once, exact resumes, and refusals in one line."""

from __future__ import annotations

import io
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from tensordict import TensorDict
from tiny_dataset import Arrays, write_hdf5
from torch import Tensor
from torchrl.data import PrioritizedSampler, SamplerWithoutReplacement, SliceSampler
from torchrl.data.replay_buffers import Sampler

from datamodules.offline import OfflineDataModule
from datamodules.replay.transitions import Column, Replay, Unpack

NAMES = ("observation", "action", "next/observation", "next/reward", "next/terminated", "next/truncated")
COLUMNS = {name: Column(start, start + 1, (1,)) for start, name in enumerate(NAMES)}


def make(count: int = 10, batch_size: int = 4, **options: Any) -> Replay:
    """A replay of rows whose fields are all their number."""
    data = TensorDict({"row": torch.arange(float(count)).unsqueeze(1).expand(count, 6).contiguous()}, [count])
    return Replay(data, Unpack(COLUMNS), batch_size=batch_size, length=5, seed=0, **options)


def drawn(replay: Replay, count: int) -> Tensor:
    """`[count, B]` numbers of the rows of the next batches."""
    return torch.stack([batch["next", "reward"].flatten() for batch in islice(replay, count)])


@pytest.mark.parametrize("rows", [None, torch.tensor([1, 2, 5, 6, 9])])
def test_rows_come_once_in_each_pass_and_every_batch_is_whole(rows: Tensor | None) -> None:
    expected = torch.arange(10.0) if rows is None else rows.float()
    passes = drawn(make(rows=rows, sampler=SamplerWithoutReplacement), 30).view(-1, len(expected))
    assert torch.equal(passes.sort().values, expected.expand_as(passes))
    assert len(passes.unique(dim=0)) > 5  # each in an order of its own


@pytest.mark.parametrize("drop_last", [False, True])
def test_another_sampler_resumes_exactly_within_a_pass(drop_last: bool) -> None:
    options = {"sampler": partial(SamplerWithoutReplacement, drop_last=drop_last), "initial": torch.arange(7.0)}
    replay = make(**options)
    for _ in range(6):  # also at the start and at the end of a pass
        file = io.BytesIO()
        torch.save(replay.state_dict(), file)
        file.seek(0)
        fresh = make(**options)
        fresh.load_state_dict(torch.load(file, weights_only=True))
        for batch, other in zip(islice(fresh, 7), islice(replay, 7), strict=True):
            assert (batch == other).all()
        drawn(replay, 1)


def test_what_starts_over_has_the_same_order_again() -> None:
    for options in ({"restart": True}, {"repeat": 3}):
        replay = make(sampler=SamplerWithoutReplacement, **options)
        batches = drawn(replay, 3)
        assert torch.equal(drawn(replay, 3), batches)
        assert len(batches.unique()) == 10


def test_a_subset_is_the_whole_buffer_to_torchrl() -> None:
    chosen = torch.tensor([7, 1, 4])
    buffer = make(rows=chosen).buffer
    assert len(buffer) == 3
    assert torch.equal(buffer[:]["next", "reward"].flatten(), chosen.float())
    assert torch.equal(buffer[torch.tensor([2, 0])]["next", "reward"].flatten(), torch.tensor([4.0, 7.0]))
    assert set(buffer.sample(50)["next", "reward"].flatten().tolist()) == {1.0, 4.0, 7.0}
    buffer.append_transform(lambda batch: batch.set("action", -batch["action"]))
    batch = buffer.sample()
    assert torch.equal(batch["action"], -batch["observation"])


@pytest.mark.parametrize(
    ("sampler", "why"),
    [
        (partial(PrioritizedSampler, max_capacity=10, alpha=0.5, beta=0.5), "recorded rows have no priorities"),
        (partial(SliceSampler, slice_len=2), "cannot draw recorded rows: Could not get"),
        (partial(SamplerWithoutReplacement, drop_last=True), r"cannot draw recorded rows: The batch size \(40\)"),
        (dict, "dict is no sampler of TorchRL's"),
        (Sampler, "Can't instantiate abstract class"),
    ],
)
def test_a_sampler_that_does_not_fit_is_refused_at_the_start(sampler: Any, why: str) -> None:
    with pytest.raises(ValueError, match=f"^sampler: .*{why}") as refused:
        make(batch_size=40, sampler=sampler)
    assert len(str(refused.value)) < 400
    assert "\n" not in str(refused.value)


def test_a_config_names_the_sampler_by_class_path(tmp_path: Path, arrays: Arrays) -> None:
    path = str(write_hdf5(tmp_path / "tiny.h5", arrays))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(OfflineDataModule, "data")
    given = [f"--data.source={path}", f"--data.cache_dir={tmp_path / 'cache'}", "--data.batch_size=4"]
    given += ["--data.sampler=torchrl.data.SamplerWithoutReplacement", "--data.validation_fraction=0.34"]
    config = parser.parse_args([*given, "--data.sampler.drop_last=true", "--data.storage=memmap"])
    written = parser.dump(config)
    assert "Unable to serialize" not in written
    data = parser.instantiate(parser.parse_string(written)).data
    replay = data.train_dataloader()
    assert isinstance(replay.buffer.sampler, SamplerWithoutReplacement)
    assert replay.buffer.sampler.drop_last
    assert data.hparams["sampler"]["init_args"] == {"drop_last": True, "shuffle": True}
    assert not isinstance(data.val_dataloader().buffer.sampler, SamplerWithoutReplacement)
    state, expected = data.rank_state(), drawn(replay, 5)
    fresh = parser.instantiate(config).data
    fresh.load_rank_state(state)
    assert torch.equal(drawn(fresh.train_dataloader(), 5), expected)
    with pytest.raises(ValueError, match="prefetch: 2 does not go with another sampler"):
        OfflineDataModule(path, sampler=SamplerWithoutReplacement, prefetch=2)
