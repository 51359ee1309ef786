"""Prioritised sequences: which are cut from episodes, how they are drawn, and what a checkpoint finds again."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from prioritized_rows import FLAGS, STREAMS, check_contents, contents, draw, filled, make, make_rows, random_lengths
from tensordict import TensorDict

import datamodules.replay.memory_mapped_rows
from datamodules.replay.episode_cutter import plain_sequences
from datamodules.replay.memory_mapped_rows import Field
from datamodules.replay.prioritized import PrioritizedReplay
from datamodules.replay.streams import ReplaySettings
from modules.batch import PrioritizedSequences
from modules.contracts import Feedback


# ------------------------------------------------------------------------------------------------------ what is stored
@pytest.mark.parametrize("every_start", [False, True])
@pytest.mark.parametrize("flagged", [True, False])
@pytest.mark.parametrize(
    ("burn_in", "length", "overlap", "longest"),
    [(3, 6, 2, 30), (0, 4, 0, 9), (5, 3, 2, 25), (10, 1, 0, 6), (2, 8, 7, 4)],
)
def test_sequences_are_those_of_the_definition(
    tmp_path: Path, burn_in: int, length: int, overlap: int, longest: int, flagged: bool, every_start: bool
) -> None:
    rows = make_rows(random_lengths(length, 60, longest), flagged)[:60]
    expected = plain_sequences(rows, burn_in, length, length - overlap, every_start=every_start)
    form: dict[str, Any] = {"burn_in": burn_in, "length": length, "overlap": overlap, "every_start": every_start}
    replay = make(tmp_path, **form)
    pieces = random.Random(0)
    start = 0
    while start < len(rows):
        stop = start + pieces.choice([1, 1, 2, 7])
        replay.extend(rows[start:stop])
        start = stop
    assert len(replay) == len(rows)
    check_contents(replay, rows, expected)
    # In one piece, larger than what is cut at a time, the same.
    whole = make(tmp_path / "whole", **form)
    whole.extend(torch.cat([rows, rows]))  # type: ignore[arg-type]
    assert set(contents(whole)) >= set(range(len(expected)))
    assert torch.equal(contents(whole)[0][0], contents(replay)[0][0])


def test_every_row_but_the_last_can_start_a_sequence_that_is_padded_behind_the_end(tmp_path: Path) -> None:
    replay = make(tmp_path, burn_in=0, length=3, overlap=2, every_start=True)
    replay.extend(make_rows([[5, 2, 9]] * STREAMS)[:7])
    found = [sequence for sequence in contents(replay).values() if sequence[0][0, 1] == 1]
    times = [[-1 if p else int(t) for t, p in zip(s[0][:, 0], s[-2], strict=True)] for s in found]
    # Episodes of four transitions and of one.
    assert sorted(times) == [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, -1], [3, 4, -1, -1], [5, 6, -1, -1]]


@pytest.mark.parametrize("lengths", [[50, 3, 7, 40], [2] * 60])
def test_a_sequence_of_each_start_is_counted_as_the_rows_to_the_next_one(tmp_path: Path, lengths: list[int]) -> None:
    rows = make_rows([lengths] * STREAMS)
    replay = make(tmp_path, capacity=12, burn_in=1, overlap=4, every_start=True)  # of 3 streams, 2 rows each: 18
    for t in range(len(rows)):
        replay.extend(rows[t : t + 1])
    expected = plain_sequences(rows, 1, 6, 2, every_start=True)
    check_contents(replay, rows, expected, first=len(expected) - 18)


@pytest.mark.parametrize("every_start", [False, True])
def test_the_age_counts_the_transitions_that_came_since(tmp_path: Path, every_start: bool) -> None:
    replay = make(tmp_path, burn_in=0, length=4, overlap=3, every_start=every_start)
    replay.extend(make_rows([[20, 30]] * STREAMS)[:45])
    batch = draw(replay)
    assert batch.age is not None
    newest = replay.ring.count - 1
    assert torch.equal(batch.age, newest - batch.index)
    if every_start:  # a transition for each: all 19 of the episodes that ended, and those that are not open
        assert newest + 1 == STREAMS * (19 + 21)
    replay.extend(make_rows([[10]] * STREAMS)[:10])
    again = draw(replay)
    assert again.age is not None
    assert torch.equal(again.age, replay.ring.count - 1 - again.index)
    two = make(tmp_path / "two", burn_in=0, length=4, overlap=2, every_start=every_start)
    two.extend(make_rows([[20]] * STREAMS))
    batch = draw(two)
    assert batch.age is not None
    assert batch.age.dtype == torch.int64
    assert torch.equal(batch.age, 2 * (two.ring.count - 1 - batch.index))


def test_every_transition_of_finished_episodes_is_trained(tmp_path: Path) -> None:
    lengths = random_lengths(0, 12, 40)
    rows = make_rows(lengths)
    replay = make(tmp_path)
    replay.extend(rows)
    trained: set[tuple[int, int]] = set()
    for sequence in contents(replay).values():
        observation, padding = sequence[0], sequence[-2]
        pairs = [t for t in range(3, 9) if not padding[t] and not padding[t + 1]]
        trained |= {(int(observation[t, 0]), int(observation[t, 1])) for t in pairs}
        assert pairs
        assert sequence[3][1:].sum() <= (padding[0] or sequence[3][0])  # a reset is the first row that is not padding
    for stream, episodes in enumerate(lengths):
        start = 0
        for count in episodes:
            if start + count <= len(rows):
                assert {(t, stream) for t in range(start, start + count - 1)} <= trained
                assert (start + count - 1, stream) not in trained  # the last row leads nowhere
            start += count


def test_a_known_episode_is_cut_as_in_the_paper(tmp_path: Path) -> None:
    replay = make(tmp_path, burn_in=2, length=4, overlap=2)
    replay.extend(make_rows([[9], [9], [9]]))
    found = [sequence for index, sequence in sorted(contents(replay).items()) if index % STREAMS == 1]
    assert all(sequence[0][-1, 1] == 1 for sequence in found)
    times = [[-1 if p else int(t) for t, p in zip(s[0][:, 0], s[-2], strict=True)] for s in found]
    assert times == [[-1, -1, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 6], [2, 3, 4, 5, 6, 7, 8]]  # 8 transitions


def test_the_oldest_sequences_are_dropped(tmp_path: Path) -> None:
    rows = make_rows([[50, 3, 7, 40]] * STREAMS)
    replay = make(tmp_path, capacity=12)  # of 3 streams, 4 rows for each sequence: 9
    for t in range(len(rows)):
        replay.extend(rows[t : t + 1])
        if t > 20:
            replay.sample()
    expected = plain_sequences(rows, 3, 6, 4)
    check_contents(replay, rows, expected, first=len(expected) - 9)
    assert len(replay) == 12


def test_more_sequences_than_there_is_room_for_at_once(tmp_path: Path) -> None:
    replay = make(tmp_path, capacity=10, length=2, overlap=1, burn_in=0)  # 30 of 2 transitions
    rows = make_rows([[64]] * STREAMS)
    replay.extend(rows)
    check_contents(replay, rows, plain_sequences(rows, 0, 2, 1), first=62 * STREAMS + STREAMS - 30 - STREAMS)


def test_a_batch_is_time_major_in_memory_and_keys_keep_their_types(tmp_path: Path) -> None:
    fields = {"camera/front": Field((8, 8, 3), torch.uint8), "a.b": Field((), torch.int64)}
    told = ReplaySettings(
        tmp_path, fields, Field((2,), torch.float32), streams=2, capacity=9, margin=1, batch_size=3, length=3
    )
    replay = PrioritizedReplay(told, burn_in=1, overlap=0)
    images = torch.randint(256, (4, 2, 8, 8, 3), dtype=torch.uint8)
    flag = torch.zeros(4, 2, dtype=torch.bool)
    rows = {"observation": {"camera/front": images, "a.b": torch.arange(8).view(4, 2)}}
    rows |= {"previous_action": torch.rand(4, 2, 2), "reward": torch.rand(4, 2), **dict.fromkeys(FLAGS, flag)}
    replay.extend(TensorDict(rows, [4, 2]))  # type: ignore[arg-type]
    batch = replay.sample()
    assert batch.batch_size == (3,)
    assert batch["sequence"].batch_size == (3, 5)
    sequences = PrioritizedSequences.from_tensordict(batch)
    sequence, padding = sequences.sequence, sequences.padding
    assert padding[:, 0].tolist() == [True, False, False, False, False]
    assert sequences.start_state.shape == (3, 0)
    where = sequence.observation["a.b"][1:]
    assert torch.equal(sequence.observation["camera/front"][1:], images.flatten(0, 1)[where])
    assert torch.equal(sequence.previous_action[1:], rows["previous_action"].flatten(0, 1)[where])  # type: ignore[attr-defined]
    assert sequence.observation["camera/front"].dtype == torch.uint8
    for value in (*sequence.observation.values(), *sequence[1:], padding):
        assert value.shape[:2] == (5, 3)
        assert value.is_contiguous()


# ---------------------------------------------------------------------------------------------------- how it is drawn
def test_sequences_are_drawn_in_proportion_to_a_power_of_their_priority(tmp_path: Path) -> None:
    replay = filled(tmp_path, alpha=0.5, beta=0.6)
    priority = torch.arange(15) ** 2.0  # the first one is all but never drawn
    replay.write_back(Feedback(torch.arange(15), priority))
    batches = [draw(replay) for _ in range(400)]
    share = torch.bincount(torch.cat([b.index for b in batches]), minlength=15) / (400 * 32)
    probability = torch.arange(15) / torch.arange(15).sum()
    torch.testing.assert_close(share, probability, atol=0.012, rtol=0)
    assert share[0] == 0
    for batch in batches[:5]:
        weight = (15 * probability[batch.index]) ** -0.6
        torch.testing.assert_close(batch.weight, weight / weight.max(), rtol=1e-4, atol=0)


def test_new_sequences_have_the_greatest_priority_so_far(tmp_path: Path) -> None:
    replay = filled(tmp_path, alpha=1.0, batch_size=2000)
    replay.write_back(Feedback(torch.arange(15), torch.tensor([7.0] + [1.0] * 14)))
    replay.write_back(Feedback(torch.zeros(1, dtype=torch.int64), torch.ones(1)))
    replay.extend(make_rows([[7]] * STREAMS))
    share = torch.bincount(draw(replay).index, minlength=18) / 2000
    expected = torch.tensor([1.0] * 15 + [7.0] * 3) / 36
    torch.testing.assert_close(share, expected, atol=0.035, rtol=0)


def test_priorities_of_sequences_that_are_gone_change_nothing(tmp_path: Path) -> None:
    one, other = (filled(tmp_path / name, capacity=12, alpha=1.0) for name in ("one", "other"))
    for replay in (one, other):
        replay.write_back(Feedback(torch.tensor([14]), torch.tensor([3.0])))
    one.write_back(Feedback(torch.arange(6), torch.full((6,), 3.0)))  # nine are left, 6 to 14
    assert torch.equal(draw(one).index, draw(other).index)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_priorities_that_are_none_are_refused(tmp_path: Path, value: float) -> None:
    replay = filled(tmp_path)
    with pytest.raises(ValueError, match="priorities must be finite and not negative"):
        replay.write_back(Feedback(torch.tensor([0]), torch.tensor([value])))


# -------------------------------------------------------------------------------------------------------- start states
def test_a_new_state_goes_to_the_sequence_that_follows(tmp_path: Path) -> None:
    replay = make(tmp_path, refresh_states=True)
    replay.extend(make_rows([[23, 8], [30], [11, 20]])[:30])
    before = contents(replay)
    indices = torch.tensor(sorted(before))
    replay.write_back(Feedback(indices, torch.ones(len(indices)), -1.0 - indices.unsqueeze(-1)))
    after = contents(replay)
    changed = 0
    for index, sequence in before.items():
        time, stream = sequence[0][~sequence[-2]][0].tolist()
        # The one before in the same episode holds this one's first row as its row number `stride`.
        mine = [i for i, s in before.items() if not s[-2][4] and s[0][4].tolist() == [time, stream] and not s[3][4]]
        # The second of an episode that starts at its first or a later row, not in padding.
        mine = [i for i in mine if not sequence[-2][0]]
        expected = torch.tensor([-1.0 - mine[0]]) if mine else sequence[-1]
        changed += len(mine)
        assert torch.equal(after[index][-1], expected)
        for old, new in zip(sequence[:-1], after[index][:-1], strict=True):
            assert torch.equal(old, new)
    assert changed == 4 + 6 + 1 + 3


def test_a_state_is_not_written_into_what_took_the_place_of_the_next_sequence(tmp_path: Path) -> None:
    replay = make(tmp_path, refresh_states=True, capacity=12)
    replay.extend(make_rows([[23]] * STREAMS))
    batch = draw(replay)
    rows = make_rows([[60]] * STREAMS)
    replay.extend(rows)
    replay.write_back(Feedback(batch.index, torch.ones(32), torch.full((32, 1), -1.0)))
    assert all(sequence[-1] >= 0 for sequence in contents(replay).values())


def test_states_are_left_alone_unless_they_are_to_be_refreshed(tmp_path: Path) -> None:
    replay = filled(tmp_path)
    replay.write_back(Feedback(torch.arange(15), torch.ones(15), torch.full((15, 1), -1.0)))
    assert all(sequence[-1] >= 0 for sequence in contents(replay).values())
    with pytest.raises(ValueError, match="the agent hands no states back"):
        filled(tmp_path / "other", refresh_states=True).write_back(Feedback(torch.arange(15), torch.ones(15)))


# -------------------------------------------------------------------------------------------- what rows hold themselves
def test_sequences_hold_what_was_stored_with_each_row_and_take_what_is_given_back(tmp_path: Path) -> None:
    rows = make_rows([[23, 8], [30], [11, 20]])[:30]
    replay = make(tmp_path, stored_rows=True, refresh_states=True, alpha=1.0)
    replay.extend(rows)
    expected = plain_sequences(rows, 3, 6, 4)
    batch = draw(replay)
    assert batch.stored is not None
    assert batch.stored.shape == (10, 32, 1)
    for b, number in enumerate(batch.index.tolist()):
        _, stream, times = expected[number]
        kept = [rows["stored"][t, stream].item() if t is not None else 0.0 for t in times]
        assert batch.stored[:, b, 0].tolist() == kept
        assert batch.start_state[b] == kept[next(i for i, t in enumerate(times) if t is not None)]
    priority = torch.ones(32)
    priority[batch.index == batch.index[0]] = 1e6  # whatever was stored, priorities work as before
    replay.write_back(Feedback(batch.index, priority, None, -batch.stored - 1))
    again = draw(replay)
    assert again.stored is not None
    assert (again.index == batch.index[0]).sum() > 16
    for b, number in enumerate(again.index.tolist()):
        _, stream, times = expected[number]
        known = torch.tensor([rows["stored"][t, stream].item() if t is not None else 0.0 for t in times])
        given = torch.where(again.padding[:, b], 0.0, -known - 1)
        assert torch.equal(again.stored[:, b, 0], given if number in batch.index else known)


def test_rows_are_only_refreshed_where_they_are_held(tmp_path: Path) -> None:
    replay = filled(tmp_path, refresh_states=True)
    batch = draw(replay)
    assert batch.stored is None
    with pytest.raises(ValueError, match="stored_rows is off, but the agent hands back"):
        replay.write_back(Feedback(batch.index, torch.ones(32), None, torch.zeros(10, 32, 1)))
    with pytest.raises(ValueError, match="stored_rows needs an agent whose state is stored"):
        make(tmp_path / "other", stored_rows=True, stored_width=0)


# ----------------------------------------------------------------------------------------------------------- arguments
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overlap": 6}, r"overlap must lie in \[0, 5\]"),
        ({"overlap": -1}, r"overlap must lie in \[0, 5\]"),
        ({"burn_in": -1}, "burn_in must be at least 0, got -1"),
        ({"alpha": 1.5}, r"alpha must lie in \[0, 1\]"),
        ({"beta": -0.1}, r"beta must lie in \[0, 1\]"),
        ({"capacity": 9}, rf"9 rows .* one sequence of 10 .*: raise data.capacity to {10 * STREAMS} for each process"),
        ({"refresh_states": True, "stored_width": 0}, "refresh_states needs an agent whose state is stored"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(tmp_path, **changes)


def test_nothing_is_drawn_before_a_sequence_is_finished(tmp_path: Path) -> None:
    replay = make(tmp_path)
    replay.extend(make_rows([[9]] * STREAMS)[:6])
    with pytest.raises(ValueError, match="no sequence is finished yet: each stream holds 6 rows"):
        replay.sample()
    with pytest.raises(ValueError, match="no windows of its streams; use datamodules"):
        replay.sample_windows(1, 3, torch.Generator())


def test_there_is_a_sequence_when_the_rows_that_are_needed_are_there(tmp_path: Path) -> None:
    replay = make(tmp_path, capacity=10)
    replay.extend(make_rows([[100]] * STREAMS)[: replay.rows_needed])
    assert len(replay) == replay.rows_needed == 10
    assert replay.sample()["index"].max() < 3


# -------------------------------------------------------------------------------------------------------------- memory
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_memory_does_not_grow_with_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datamodules.replay.memory_mapped_rows, "RESIDENT_LIMIT", 16 << 20)
    told = ReplaySettings(
        tmp_path, Field((32, 32, 3), torch.uint8), Field((), torch.int64), streams=4, capacity=4000, margin=10,
        batch_size=8, length=15,
    )  # fmt: skip
    replay = PrioritizedReplay(told, burn_in=0, overlap=0)
    image = torch.randint(256, (50, 4, 32, 32, 3), dtype=torch.uint8)
    flag = torch.zeros(50, 4, dtype=torch.bool)
    rows = {"observation": image, "previous_action": flag.long(), "reward": flag.float(), **dict.fromkeys(FLAGS, flag)}
    replay.extend(TensorDict(rows, [50, 4]))  # type: ignore[arg-type]
    before, most = resident(), 0
    for _ in range(79):  # 52 MB
        replay.extend(TensorDict(rows, [50, 4]))  # type: ignore[arg-type]
        replay.sample()
        most = max(most, resident() - before)
    assert (tmp_path / "field-observation.bin").stat().st_blocks * 512 > 40 << 20
    assert most < 24 << 20


def resident() -> int:
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.split("RssFile:")[1].split()[0])
