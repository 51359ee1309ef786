"""Replay of streams: which windows come, from where, in which memory; and what a checkpoint finds again."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tensordict import TensorDict

import datamodules.replay.memory_mapped_rows
from datamodules.replay import checksums
from datamodules.replay.memory_mapped_rows import Field, MemoryMappedRows
from datamodules.replay.ring_buffer import WindowStarts, shift_to_ends
from datamodules.replay.sequences import LatestWindows, SequenceReplay
from datamodules.replay.streams import ReplaySettings
from modules.batch import SequenceBatch
from modules.contracts import Feedback

STREAMS = 3
OBSERVATION = Field((2,), torch.float32)


def stream_rows(start: int, stop: int, *, episode: int = 7) -> TensorDict:
    """Rows that say who they are: the observation is (time, stream); every `episode`-th row is an end."""
    time = torch.arange(start, stop).unsqueeze(1).expand(-1, STREAMS)
    stream = torch.arange(STREAMS).expand(stop - start, -1)
    return TensorDict(
        {
            "observation": torch.stack([time, stream], -1).float(),
            "previous_action": (time + 100 * stream).contiguous(),
            "reward": time * 0.5,
            "is_first": time % episode == 0,
            "terminated": time % episode == episode - 1,
            "truncated": torch.zeros_like(time, dtype=torch.bool),
        },
        [stop - start, STREAMS],
    )


def make(folder: Path, **changes: object) -> SequenceReplay:
    settings = {"streams": STREAMS, "capacity": 20, "margin": 6, "batch_size": 5, "length": 4, "seed": 1}
    own = {name: changes.pop(name) for name in ("prioritize_ends", "storage", "sampler") if name in changes}
    told = ReplaySettings(folder, OBSERVATION, Field((), torch.int64), **settings | changes)  # type: ignore[arg-type]
    return SequenceReplay(told, **own)  # type: ignore[arg-type]


def starts(replay: SequenceReplay, draws: int = 400) -> torch.Tensor:
    """Times and streams of first rows, `[draws * B, 2]`, of windows that are checked to be consecutive rows."""
    found = []
    for _ in range(draws):
        batch = replay.sample()
        observation = batch["observation"]
        assert torch.equal(observation[:, :, 0] - observation[:, :1, 0], torch.arange(4.0).expand(5, 4))
        assert (observation[:, :, 1] == observation[:, :1, 1]).all()
        time, stream = observation.unbind(-1)
        assert torch.equal(batch["previous_action"], (time + 100 * stream).long())
        assert torch.equal(batch["reward"], time * 0.5)
        assert torch.equal(batch["is_first"], time % 7 == 0)
        found.append(observation[:, 0])
    return torch.cat(found).long()


@pytest.mark.parametrize("written", [4, 20, 24, 26, 27, 53, 200])
def test_windows_are_uniform_over_what_is_kept_and_never_cross_the_cursor(tmp_path: Path, written: int) -> None:
    replay = make(tmp_path)
    edges = sorted({0, *range(3, written, 5), written})  # pieces of five, which straddle the ring's end
    for a, b in itertools.pairwise(edges):
        replay.extend(stream_rows(a, b))
    found = starts(replay)
    oldest = max(0, written - 20)
    places = {(t, n) for t in range(oldest, written - 3) for n in range(STREAMS)}
    counts = {place: 0 for place in places}
    for time, stream in found.tolist():
        counts[time, stream] += 1  # a place that is not allowed is a KeyError
    expected = len(found) / len(places)
    assert max(abs(count - expected) for count in counts.values()) < 5 * expected**0.5 + 1e-9
    assert len(replay) == min(written, 20)


def test_too_few_rows_for_a_window_are_refused(tmp_path: Path) -> None:
    replay = make(tmp_path)
    replay.extend(stream_rows(0, 3))
    with pytest.raises(ValueError, match="each stream holds 3"):
        replay.sample()


def test_ends_are_moved_to_the_end_of_the_window() -> None:
    ends = torch.zeros(4, 5, dtype=torch.bool)
    ends[0, 0] = ends[1, 1] = ends[3, 1] = ends[3, 2] = ends[0, 4] = True
    windows = WindowStarts(torch.tensor([10, 11, 12, 13, 7]), torch.zeros(5, dtype=torch.int64))
    moved = shift_to_ends(windows, ends, oldest=5)
    # the first end counts; a window whose only end is its last row stays; without enough history, too
    assert moved.start.tolist() == [7, 9, 12, 13, 7]


def test_prioritised_ends_are_sampled_more_often(tmp_path: Path) -> None:
    replay = make(tmp_path, prioritize_ends=True)
    replay.extend(stream_rows(0, 21))  # ends at 6, 13, 20; the oldest row is 1
    found = starts(replay)
    counts = torch.bincount(found[:, 0], minlength=21) / len(found)
    # Of the 17 starts 1 to 17, those at 3..6, 10..13 and 17 end up at 3, 10 and 17; 7..9 and the like stay.
    expected = torch.zeros(21)
    expected[[1, 2, 7, 8, 9, 14, 15, 16]] = 1 / 17
    expected[[3, 10]] = 4 / 17
    expected[17] = 1 / 17
    torch.testing.assert_close(counts, expected, atol=0.03, rtol=0)


def test_a_batch_is_time_major_in_memory_and_keys_keep_their_types(tmp_path: Path) -> None:
    fields = {"camera/front": Field((8, 8, 3), torch.uint8), "a.b": Field((), torch.int64)}
    replay = SequenceReplay(
        ReplaySettings(
            tmp_path, fields, Field((2,), torch.float32), streams=2, capacity=9, margin=1, batch_size=3, length=4
        )
    )
    images = torch.randint(256, (9, 2, 8, 8, 3), dtype=torch.uint8)
    flag = torch.zeros(9, 2, dtype=torch.bool)
    clock = torch.arange(18).view(9, 2)
    rows = {"observation": {"camera/front": images, "a.b": clock}, "previous_action": torch.rand(9, 2, 2)}
    rows |= {"reward": torch.rand(9, 2), "is_first": flag, "terminated": flag, "truncated": flag}
    replay.extend(TensorDict(rows, [9, 2]))  # type: ignore[arg-type]
    batch = replay.sample()
    assert batch.batch_size == (3, 4)
    sequence = SequenceBatch.from_tensordict(batch)
    assert sequence.reward.shape == (4, 3)
    where = sequence.observation["a.b"]
    assert torch.equal(sequence.observation["camera/front"], images.flatten(0, 1)[where])
    assert torch.equal(sequence.previous_action, rows["previous_action"].flatten(0, 1)[where])  # type: ignore[attr-defined]
    for value in (*sequence.observation.values(), *sequence[1:]):
        assert value.is_contiguous()
    assert sequence.observation["camera/front"].dtype == torch.uint8


def test_drawing_windows_aside_leaves_the_next_batch_as_it_is(tmp_path: Path) -> None:
    one, other = make(tmp_path / "one"), make(tmp_path / "other")
    for replay in (one, other):
        replay.extend(stream_rows(0, 20))
    aside = one.sample_windows(7, 9, torch.Generator().manual_seed(0))
    assert aside["observation"].shape == (7, 9, 2)
    assert torch.equal(one.sample()["observation"], other.sample()["observation"])
    with pytest.raises(ValueError, match="a window of 21 rows"):
        one.sample_windows(1, 21, torch.Generator())


def test_a_stored_state_is_one_more_field_of_a_row(tmp_path: Path) -> None:
    replay = make(tmp_path, stored_width=2)
    rows = stream_rows(0, 8)
    rows["stored"] = rows["observation"] + 0.5
    replay.extend(rows)
    batch = replay.sample()
    assert torch.equal(batch["stored"], batch["observation"] + 0.5)
    with pytest.raises(ValueError, match=r"no priorities to write back to; set replay to .*PrioritizedReplay"):
        replay.write_back(Feedback(torch.zeros(5, dtype=torch.int64), torch.ones(5)))


# ----------------------------------------------------------------------------------------------------- newest windows
def latest(folder: Path, **changes: object) -> LatestWindows:
    settings = {"streams": STREAMS, "capacity": 6, "margin": 4, "batch_size": STREAMS, "length": 4}
    told = ReplaySettings(folder, OBSERVATION, Field((), torch.int64), **settings | changes)  # type: ignore[arg-type]
    return LatestWindows(told)


def test_the_newest_window_of_every_stream_in_order(tmp_path: Path) -> None:
    replay = latest(tmp_path)
    assert replay.rows_needed == 4
    for start in range(0, 30, 3):  # one row more than the window before, around the ring
        replay.extend(stream_rows(start, start + 3))
        if start == 0:
            with pytest.raises(ValueError, match="each stream holds 3"):
                replay.sample()
            continue
        time, stream = replay.sample()["observation"].unbind(-1)
        rows = [*range(6)] if start == 3 else [start - 1, start, start + 1, start + 2]
        assert time.tolist() == [rows] * STREAMS
        assert stream.tolist() == [[n] * len(rows) for n in range(STREAMS)]
    assert len(replay) == 6
    aside = replay.sample_windows(50, 5, torch.Generator().manual_seed(0))["observation"][:, 0, 0]
    assert set(aside.tolist()) == {24, 25}
    again = latest(tmp_path)
    assert again.load_state_dict(replay.state_dict())
    assert torch.equal(again.sample()["observation"], replay.sample()["observation"])


def test_a_newest_window_holds_all_rows_since_the_one_before_up_to_twice_its_length(tmp_path: Path) -> None:
    replay, written = latest(tmp_path, capacity=20, margin=9), 0
    for new, length in ((4, 4), (3, 4), (5, 6), (7, 8), (9, 8), (1, 4), (0, 4)):
        replay.extend(stream_rows(written, written + new)) if new else None
        written += new
        time = replay.sample()["observation"][0, :, 0]
        assert time.tolist() == [*range(written - length, written)]
    assert latest(tmp_path, capacity=20, margin=9).load_state_dict(replay.state_dict())


def test_newest_windows_are_one_of_each_stream(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"batch_size: 5: .* there are 3; set batch_size to 3"):
        latest(tmp_path, batch_size=5)


# ------------------------------------------------------------------------------------------------------- checkpoints
def batches(replay: SequenceReplay, count: int = 10) -> torch.Tensor:
    return torch.stack([replay.sample()["observation"] for _ in range(count)])


def saved(folder: Path) -> tuple[dict, torch.Tensor, SequenceReplay]:
    """A checkpoint after 50 rows, what it samples next, and the replay that went on."""
    replay = make(folder)
    for t in range(0, 50, 5):
        replay.extend(stream_rows(t, t + 5))
        if t > 5:
            replay.sample()
    torch.save(replay.state_dict(), folder / "state.pt")
    return torch.load(folder / "state.pt", weights_only=True), batches(replay), replay


@pytest.mark.parametrize("later", [0, 6])
def test_a_fresh_process_samples_what_would_have_come(tmp_path: Path, later: int) -> None:
    state, expected, old = saved(tmp_path)
    if later:  # the run went on after the checkpoint, as far as the margin allows
        old.extend(stream_rows(1050, 1050 + later))
    fresh = make(tmp_path)
    assert fresh.load_state_dict(state)
    assert torch.equal(batches(fresh), expected)
    fresh.extend(stream_rows(50, 53))
    assert starts(fresh)[:, 0].min() == 33


def test_rows_that_were_overwritten_are_noticed(tmp_path: Path) -> None:
    state, _, old = saved(tmp_path)
    old.extend(stream_rows(50, 57))
    fresh = make(tmp_path)
    assert not fresh.load_state_dict(state)
    assert starts(fresh)[:, 0].unique().tolist() == list(range(37, 54))  # the newest ones, all in order


@pytest.mark.parametrize("field", stream_rows(0, 1).keys())
@pytest.mark.parametrize("folder", ["same", "new"])
def test_a_change_of_any_field_is_an_error_that_names_the_file(tmp_path: Path, field: str, folder: str) -> None:
    state, _, old = saved(tmp_path / "same")
    values = old.files.values[field][34 % old.ring.length * STREAMS]  # one row of one stream
    values.copy_(~values if values.dtype == torch.bool else values + 1)
    with pytest.raises(ValueError, match=rf"same/field-{field}\.bin is damaged.*remove the folder \S+/same to go on"):
        make(tmp_path / folder).load_state_dict(state)
    shutil.rmtree(tmp_path / "same")
    assert not make(tmp_path / folder).load_state_dict(state)


def test_a_checkpoint_reads_what_was_written_since_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums, "BLOCK", 4)
    read: list[int] = []
    replay = make(tmp_path, capacity=200, margin=50)
    replay.extend(stream_rows(0, 20))
    original = replay.checksums.read

    def counted(start: int, stop: int) -> dict[str, int]:
        read.append(stop - start)
        return original(start, stop)

    monkeypatch.setattr(replay.checksums, "read", counted)
    for t in range(20, 400, 20):
        replay.extend(stream_rows(t, t + 20))
        state = replay.state_dict()
        assert make(tmp_path, capacity=200, margin=50).load_state_dict(state)  # which reads all of it, anew
    assert max(read) <= 4
    assert sum(read) <= 400 + 19 * 8


def test_a_replay_follows_its_checkpoint_into_another_folder(tmp_path: Path) -> None:
    state, expected, _ = saved(tmp_path / "old")
    moved = make(tmp_path / "new")
    assert moved.load_state_dict(state)
    assert torch.equal(batches(moved), expected)
    moved.extend(stream_rows(50, 60))
    assert make(tmp_path / "old").load_state_dict(state)  # the original is untouched


def test_a_replay_that_is_gone_starts_empty(tmp_path: Path) -> None:
    state, _, _ = saved(tmp_path / "old")
    shutil.rmtree(tmp_path / "old")
    fresh = make(tmp_path / "new")
    assert not fresh.load_state_dict(state)
    assert len(fresh) == 0
    fresh.extend(stream_rows(0, 8))
    starts(fresh, 3)


def test_a_replay_of_another_size_is_refused_and_left_alone(tmp_path: Path) -> None:
    state, expected, _ = saved(tmp_path)
    with pytest.raises(ValueError, match="its capacity is 20, the configured one 18"):
        make(tmp_path, capacity=18, margin=8).load_state_dict(state)
    with pytest.raises(ValueError, match="does not fit the configured one: its layout"):
        make(tmp_path, margin=9).load_state_dict(state)
    fresh = make(tmp_path)
    assert fresh.load_state_dict(state)
    assert torch.equal(batches(fresh), expected)


def test_a_new_run_in_an_old_folder_starts_empty(tmp_path: Path) -> None:
    saved(tmp_path)
    replay = make(tmp_path)
    replay.extend(stream_rows(500, 505))
    assert set(starts(replay)[:, 0].tolist()) == {500, 501}


# ------------------------------------------------------------------------------------------------------------- files
def test_rows_are_never_written_through_a_link(tmp_path: Path) -> None:
    state, _, _ = saved(tmp_path / "run")
    (tmp_path / "precious").write_bytes(b"mine" * 1000)
    file = tmp_path / "run/field-reward.bin"
    file.unlink()
    file.symlink_to(tmp_path / "precious")
    with pytest.raises(ValueError, match=r"field-reward\.bin is no plain file"):
        make(tmp_path / "run").load_state_dict(state)
    assert (tmp_path / "precious").read_bytes() == b"mine" * 1000


def test_a_disk_that_is_too_small_is_said_before_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**8, total=10**9))
    with pytest.warns(UserWarning, match=r"can grow to 400 MB, but 100 MB are free: lower the capacity"):
        MemoryMappedRows(tmp_path, {"image": Field((1000,), torch.float32)}, 100_000)  # sparse: takes no space


def resident() -> int:
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.split("RssFile:")[1].split()[0])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datamodules.replay.memory_mapped_rows, "RESIDENT_LIMIT", 16 << 20)
    rows = 8192  # of 12 KiB: 96 MiB
    files = MemoryMappedRows(tmp_path, {"image": Field((64, 64, 3), torch.uint8)}, rows)
    assert (tmp_path / "field-image.bin").stat().st_blocks * 512 < 1 << 20  # sparse
    before, most = resident(), 0
    for start in range(0, rows, 64):
        files.values["image"][start : start + 64] = start % 251
        files.touched(64)
        most = max(most, resident() - before)
    for start in range(0, rows, 64):
        part = files.values["image"][start : start + 64]
        assert (part == start % 251).all()  # nothing is lost
        files.touched(64)
        most = max(most, resident() - before)
    assert most < 24 << 20
