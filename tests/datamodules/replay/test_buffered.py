"""A replay is a TorchRL buffer to the outside: its own calls work, and other storages and samplers take its parts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torchrl.data import (
    LazyMemmapStorage,
    LazyTensorStorage,
    RandomSampler,
    ReplayBuffer,
    RoundRobinWriter,
    SliceSampler,
)

from datamodules.replay.prioritized import PrioritizedReplay
from datamodules.replay.sequences import LatestWindows
from datamodules.replay.watched_buffer import BESIDE
from modules.contracts import Feedback
from tests.helpers.small_replays import (
    STREAMS,
    assert_same,
    drawn,
    fill,
    make_rows,
    sequences,
    settings,
    windows,
)


# ----------------------------------------------------------------------------------------------------- TorchRL's calls
def test_rows_go_in_and_windows_come_out_by_torchrls_own_calls(tmp_path: Path) -> None:
    replay, other = windows(tmp_path / "one"), fill(windows(tmp_path / "other"), 9)
    buffer = fill(replay.buffer, 9)
    assert isinstance(buffer, ReplayBuffer)
    assert isinstance(buffer.writer, RoundRobinWriter)
    assert len(buffer) == 9 * STREAMS
    assert (len(replay), buffer.write_count) == (9, 9)
    assert_same(drawn(replay), drawn(other))
    assert buffer[8]["observation"].tolist() == [[8, n] for n in range(STREAMS)]
    assert buffer[2:4].batch_size == (2, STREAMS)
    buffer.append_transform(lambda batch: batch.set("doubled", 2 * batch["reward"]))
    batch = replay.sample()
    assert torch.equal(batch["doubled"], 2 * batch["reward"])
    with pytest.warns(UserWarning, match="conflicting batch_sizes"):
        assert buffer.sample(8).batch_size == (2, 4)
    buffer.empty()
    assert (len(replay), len(buffer)) == (0, 0)


def test_sequences_come_out_by_torchrls_own_calls(tmp_path: Path) -> None:
    replay = fill(sequences(tmp_path))
    buffer = replay.buffer
    assert isinstance(buffer, ReplayBuffer)
    assert buffer.write_count == 66
    batch, info = buffer.sample(return_info=True)
    assert batch["sequence"].batch_size == (5, 5)
    assert info["priority_weight"].shape == (5,)
    buffer.update_priority(torch.arange(len(buffer)), torch.arange(len(buffer)) == 2)
    assert buffer.sample(return_info=True)[1]["index"].tolist() == [2] * 5
    assert torch.equal(buffer[2]["sequence", "observation"], buffer.sample()["sequence", "observation"][0])


KINDS = [windows, sequences, lambda folder, **parts: LatestWindows(settings(folder, batch_size=3), **parts)]
STORAGES: list[dict[str, Any]] = [{}, {"storage": LazyTensorStorage}]


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("make", KINDS)
def test_what_torchrl_dumps_it_loads(tmp_path: Path, make: Any, storage: Any) -> None:
    replay, fresh, other = (make(tmp_path / name, **storage) for name in ("one", "fresh", "other"))
    fill(replay)
    drawn(replay, 2)
    replay.buffer.dumps(tmp_path / "dumped")
    fresh.buffer.loads(tmp_path / "dumped")
    other.buffer.load_state_dict(replay.buffer.state_dict())
    assert len(replay) == len(fresh) == len(other) == (40 if make is sequences else 20)
    # All go on alike: within the open episodes, with what is given back, and from a checkpoint.
    expected = drawn(fill_on(replay))
    for one in (fresh, other):
        assert_same(drawn(fill_on(one)), expected)
        assert one.generator.get_state().equal(replay.generator.get_state())
        check_resume(one, make(one.folder, **storage))


def check_resume(replay: Any, again: Any) -> None:
    """Another replay of the same folder goes on from a checkpoint as the first one did."""
    state, expected = replay.state_dict(), drawn(replay)
    assert again.load_state_dict(state)
    assert_same(drawn(again), expected)


def fill_on(replay: Any) -> Any:
    for start in range(53, 64):
        replay.extend(make_rows(start, start + 1))
    return replay


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("make", KINDS)
def test_an_emptied_replay_is_as_a_new_one(tmp_path: Path, make: Any, storage: Any) -> None:
    replay, fresh = (make(tmp_path / name, **storage) for name in ("one", "fresh"))
    drawn(fill(replay))
    replay.state_dict()
    with pytest.raises(ValueError, match="empty_write_count: a replay finds its entries by the count of writes"):
        replay.buffer.empty(empty_write_count=False)
    replay.buffer.empty()
    assert (len(replay), len(replay.buffer), replay.ring.count) == (0, 0, 0)
    with pytest.raises(ValueError, match="holds 0"):
        replay.sample()
    replay.generator.set_state(fresh.generator.get_state())
    assert_same(drawn(fill(replay, 24)), drawn(fill(fresh, 24)))
    check_resume(replay, make(replay.folder, **storage))


def test_a_dump_of_torchrls_alone_has_no_links_between_its_sequences(tmp_path: Path) -> None:
    replay, fresh = fill(sequences(tmp_path / "one")), sequences(tmp_path / "other")
    replay.buffer.dumps(tmp_path / "dumped")
    (tmp_path / "dumped" / BESIDE).unlink()
    fill(fresh, 20)
    fresh.buffer.loads(tmp_path / "dumped")
    assert len(fresh) == 40
    assert refreshed(fresh, range(46, 66)) == set()


def refreshed(replay: PrioritizedReplay, numbers: range) -> set[int]:
    """Numbers of the sequences whose start states are others when states of -1 are given back for some."""
    slots = torch.arange(replay.ring.capacity)
    before = replay.buffer[:]["start_state"].clone()
    given = torch.full((len(numbers), 2), -1.0)
    replay.write_back(Feedback(torch.tensor(numbers), torch.ones(len(numbers)), given))
    changed = (replay.buffer[:]["start_state"] != before).any(1)
    return set(replay.ring.numbers(slots)[changed].tolist())


@pytest.mark.parametrize("storage", STORAGES)
def test_sequences_that_come_by_torchrls_calls_follow_none(tmp_path: Path, storage: Any) -> None:
    replay, other = (fill(sequences(tmp_path / name, **storage)) for name in ("one", "other"))
    entries = replay.buffer[:].clone()
    last, count = replay.ring.count, replay.ring.capacity
    assert count == 60
    assert len(refreshed(other, range(6, last))) > 20  # of those that follow each other
    # All but three are replaced by sequences that nobody knows: their slots still were those of the ones before.
    replay.buffer.extend(entries[: count - 3])
    assert refreshed(replay, range(last, last + count - 3)) == set()
    replay.extend(make_rows(53, 56))
    assert replay.ring.count > last + count - 3
    # In place likewise: neither does one that is replaced lead to the next, nor the one before to it.
    whole = fill(sequences(tmp_path / "whole", **storage))
    whole.buffer[12:30] = entries[12:30]
    gone = set(whole.ring.numbers(torch.arange(12, 30)).tolist())
    assert not refreshed(whole, range(6, last)) & gone
    again = sequences(whole.folder, **storage)
    assert again.load_state_dict(whole.state_dict())


# -------------------------------------------------------------------------------------------------- storages, samplers
@pytest.mark.parametrize("storage", [LazyTensorStorage, partial(LazyMemmapStorage, auto_cleanup=True)])
@pytest.mark.parametrize("make", [windows, sequences])
def test_another_storage_gives_the_same_batches_and_continues_exactly(tmp_path: Path, make: Any, storage: Any) -> None:
    own, replay = fill(make(tmp_path / "own")), fill(make(tmp_path / "run", storage=storage))
    assert_same(drawn(own), drawn(replay))
    torch.save(replay.state_dict(), tmp_path / "state.pt")
    expected = drawn(replay)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    fresh = make(tmp_path / "moved", storage=storage)
    assert fresh.load_state_dict(state)
    assert_same(drawn(fresh), expected)
    fill(replay, 9).state_dict()  # the rows of the next checkpoint
    assert not make(tmp_path / "run", storage=storage).load_state_dict(state)
    with pytest.raises(ValueError, match=r"its storage is Lazy\w+, the configured one None"):
        make(tmp_path / "other").load_state_dict(state)


def test_torchrls_slices_are_windows_of_single_episodes(tmp_path: Path) -> None:
    slices = partial(SliceSampler, slice_len=4, end_keys=["terminated", "truncated"])
    replay = fill(windows(tmp_path, sampler=slices))
    state, expected = replay.state_dict(), drawn(replay)
    assert len(replay.buffer) == 20 * STREAMS
    for batch in drawn(replay, 20):
        time, stream = batch["observation"].unbind(-1)
        assert torch.equal(time - time[:, :1], torch.arange(4.0).expand(5, 4))
        assert (stream == stream[:, :1]).all()
        assert not batch["terminated"][:, :-1].any()
        assert time.min() >= 33
        assert batch["observation"].transpose(0, 1).is_contiguous()
    fresh = windows(tmp_path, sampler=slices)
    assert fresh.load_state_dict(state)
    assert_same(drawn(fresh), expected)  # no slice leads from the newest row to the oldest
    replay.extend(make_rows(53, 54))
    assert not windows(tmp_path, sampler=slices).load_state_dict(state)


def test_sequences_can_be_drawn_uniformly(tmp_path: Path) -> None:
    replay = fill(sequences(tmp_path, sampler=RandomSampler))
    state, batches = replay.state_dict(), drawn(replay)
    assert all((batch["weight"] == 1).all() for batch in batches)
    fresh = sequences(tmp_path, sampler=RandomSampler)
    assert fresh.load_state_dict(state)
    assert_same(drawn(fresh), batches)
