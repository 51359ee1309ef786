"""Prioritised sequences: which are cut from episodes, how they are drawn, and what a checkpoint finds again."""

from __future__ import annotations

import inspect
import random
import shutil
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

import datamodules.replay.memory_mapped_rows
from datamodules.replay.episode_cutter import plain_sequences
from datamodules.replay.memory_mapped_rows import Field
from datamodules.replay.prioritized import PrioritizedReplay
from datamodules.replay.streams import ReplaySettings
from modules.batch import PrioritizedSequences
from modules.contracts import Feedback

STREAMS = 3
FLAGS = ("is_first", "terminated", "truncated")


def make_rows(lengths: list[list[int]], flagged: bool = True) -> TensorDict:
    """`[t, N]` rows of episodes of these lengths, for each stream; rows say who they are, what is stored likewise.

    The observation is (time, stream), what is stored 1000 * stream + time. `flagged` ends alternate between termination
    and time-out; without, only the next reset shows that an episode is over.
    """
    streams = []
    for stream, episodes in enumerate(lengths):
        position = [(p, n) for n in episodes for p in range(n)]
        time = torch.arange(len(position))
        end = torch.tensor([p == n - 1 for p, n in position]) & flagged
        first = torch.tensor([p == 0 for p, _ in position])
        even = first.cumsum(0) % 2 == 0
        streams.append(
            {
                "observation": torch.stack([time, torch.full_like(time, stream)], -1).float(),
                "previous_action": 1 + time + 100 * stream,
                "reward": 1 + time * 0.5,
                "is_first": first,
                "terminated": end & even,
                "truncated": end & ~even,
                "stored": (1000.0 * stream + time).unsqueeze(-1),
            }
        )
    count = min(len(s["reward"]) for s in streams)
    fields = {name: torch.stack([s[name][:count] for s in streams], 1) for name in streams[0]}
    return TensorDict(fields, [count, len(lengths)])  # type: ignore[arg-type]


def make(folder: Path, **changes: object) -> PrioritizedReplay:
    settings = {"streams": STREAMS, "capacity": 500, "margin": 40, "batch_size": 32, "length": 6, "seed": 1}
    own: dict = {"burn_in": 3, "overlap": 2, "alpha": 0.0}
    settings |= {"stored_width": 1} | changes
    own |= {name: settings.pop(name) for name in inspect.signature(PrioritizedReplay).parameters if name in settings}
    told = ReplaySettings(folder, Field((2,), torch.float32), Field((), torch.int64), **settings)  # type: ignore[arg-type]
    return PrioritizedReplay(told, **own)


def draw(replay: PrioritizedReplay) -> PrioritizedSequences:
    return PrioritizedSequences.from_tensordict(replay.sample())


def contents(replay: PrioritizedReplay, draws: int = 60) -> dict[int, tuple[Tensor, ...]]:
    """All sequences that are drawn, by index: their rows as fields `[L, ...]`, padding and start state."""
    found: dict[int, tuple[Tensor, ...]] = {}
    for _ in range(draws):
        batch = draw(replay)
        sequence = batch.sequence
        for b, index in enumerate(batch.index.tolist()):
            if index in found:
                continue
            fields = (sequence.observation["observation"], *sequence[1:], batch.padding)
            found[index] = (*(value[:, b] for value in fields), batch.start_state[b])
    return found


def check_contents(replay: PrioritizedReplay, rows: TensorDict, expected: list, first: int = 0) -> None:
    found = contents(replay)
    assert sorted(found) == list(range(first, len(expected)))
    for number, sequence in found.items():
        _, stream, times = expected[number]
        assert sequence[-2].tolist() == [t is None for t in times]
        names = ("observation", "previous_action", "reward", *FLAGS)
        for name, values in zip(names, sequence[:-2], strict=True):
            for t, value in zip(times, values, strict=True):
                assert torch.equal(value, rows[name][t, stream] if t is not None else torch.zeros_like(value)), name
        assert sequence[-1] == rows["stored"][next(t for t in times if t is not None), stream]


def random_lengths(seed: int, rows: int, longest: int) -> list[list[int]]:
    generator = random.Random(seed)
    return [[generator.randint(1, longest) for _ in range(rows)] for _ in range(STREAMS)]


# ------------------------------------------------------------------------------------------------------ what is stored
@pytest.mark.parametrize("flagged", [True, False])
@pytest.mark.parametrize(
    ("burn_in", "length", "overlap", "longest"),
    [(3, 6, 2, 30), (0, 4, 0, 9), (5, 3, 2, 25), (10, 1, 0, 6), (2, 8, 7, 4)],
)
def test_sequences_are_those_of_the_definition(
    tmp_path: Path, burn_in: int, length: int, overlap: int, longest: int, flagged: bool
) -> None:
    rows = make_rows(random_lengths(length, 60, longest), flagged)[:60]
    expected = plain_sequences(rows, burn_in, length, length - overlap)
    replay = make(tmp_path, burn_in=burn_in, length=length, overlap=overlap)
    pieces = random.Random(0)
    start = 0
    while start < len(rows):
        stop = start + pieces.choice([1, 1, 2, 7])
        replay.extend(rows[start:stop])
        start = stop
    assert len(replay) == len(rows)
    check_contents(replay, rows, expected)
    # In one piece, larger than what is cut at a time, the same.
    whole = make(tmp_path / "whole", burn_in=burn_in, length=length, overlap=overlap)
    whole.extend(torch.cat([rows, rows]))  # type: ignore[arg-type]
    assert set(contents(whole)) >= set(range(len(expected)))
    assert torch.equal(contents(whole)[0][0], contents(replay)[0][0])


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
def filled(folder: Path, **changes: object) -> PrioritizedReplay:
    """15 sequences: five of each stream, as they follow each other."""
    replay = make(folder, **changes)
    replay.extend(make_rows([[23]] * STREAMS))
    return replay


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
def test_a_new_record_goes_to_the_sequence_that_follows(tmp_path: Path) -> None:
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


def test_a_record_is_not_written_into_what_took_the_place_of_the_next_sequence(tmp_path: Path) -> None:
    replay = make(tmp_path, refresh_states=True, capacity=12)
    replay.extend(make_rows([[23]] * STREAMS))
    batch = draw(replay)
    rows = make_rows([[60]] * STREAMS)
    replay.extend(rows)
    replay.write_back(Feedback(batch.index, torch.ones(32), torch.full((32, 1), -1.0)))
    assert all(sequence[-1] >= 0 for sequence in contents(replay).values())


def test_records_are_left_alone_unless_they_are_to_be_refreshed(tmp_path: Path) -> None:
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


# --------------------------------------------------------------------------------------------------------- checkpoints
ROWS = make_rows(random_lengths(5, 40, 30))


def train(replay: PrioritizedReplay, start: int, stop: int) -> list[PrioritizedSequences]:
    """Fill and learn in turn: priorities and start states follow from what was drawn."""
    batches = []
    for t in range(start, stop, 2):
        replay.extend(ROWS[t : t + 2])
        batch = draw(replay)
        priority = (batch.sequence.reward.sum(0) * 0.37).sin().abs() * batch.weight
        stored = batch.stored if batch.stored is None else batch.stored * 0.9 + batch.weight.unsqueeze(-1)
        replay.write_back(Feedback(batch.index, priority, batch.start_state * 0.9 + 1, stored))
        batches.append(batch)
    return batches


def assert_same(ones: list[PrioritizedSequences], others: list[PrioritizedSequences]) -> None:
    for one, other in zip(ones, others, strict=True):
        pairs = [*zip(one[1:5], other[1:5], strict=True)]
        pairs += [(one.stored, other.stored)] if one.stored is not None else []
        for a, b in pairs:
            assert torch.equal(a, b)  # type: ignore[arg-type]
        assert torch.equal(one.sequence.reward, other.sequence.reward)


def saved(folder: Path, **changes: object) -> tuple[dict, PrioritizedReplay]:
    replay = make(folder, alpha=0.9, capacity=60, **changes)
    replay.extend(ROWS[:20])
    train(replay, 20, 120)
    torch.save(replay.state_dict(), folder / "state.pt")
    return torch.load(folder / "state.pt", weights_only=True), replay


@pytest.mark.parametrize("refresh", [False, True])
@pytest.mark.parametrize("later", [0, 40])
def test_a_fresh_process_continues_as_if_it_had_never_stopped(tmp_path: Path, refresh: bool, later: int) -> None:
    form = {"refresh_states": refresh, "stored_rows": refresh}
    (state, _), (_, uninterrupted) = (saved(tmp_path / name, **form) for name in ("run", "other"))
    expected = train(uninterrupted, 120, 180)
    if later:  # the run went on after the checkpoint, as far as the margin allows
        train(saved(tmp_path / "run", **form)[1], 120, 120 + later)
    fresh = make(tmp_path / "run", alpha=0.9, capacity=60, **form)
    assert fresh.load_state_dict(state)
    assert len(fresh) == 60
    assert_same(train(fresh, 120, 180), expected)


def test_sequences_that_were_overwritten_are_noticed(tmp_path: Path) -> None:
    state, old = saved(tmp_path)
    train(old, 120, 300)
    newest = set(range(old.ring.oldest, old.ring.count))
    fresh = make(tmp_path, alpha=0.9, capacity=60)
    assert not fresh.load_state_dict(state)
    assert set(contents(fresh)) == newest
    assert len(fresh) == 60
    fresh.extend(make_rows([[10]] * STREAMS))
    rewards = contents(fresh)[max(newest) + 1][2]
    assert rewards.tolist() == [0, 0, 0, 1, 1.5, 2, 2.5, 3, 3.5, 4]  # nothing of the episodes before


@pytest.mark.parametrize("refresh", [False, True])
def test_a_change_of_any_field_is_an_error_that_names_the_file(tmp_path: Path, refresh: bool) -> None:
    state, old = saved(tmp_path, refresh_states=refresh)
    place = old.ring.oldest % old.ring.length
    for field, all_values in old.files.values.items():
        kept, values = all_values[place].clone(), all_values[place]
        values.copy_(~values if values.dtype == torch.bool else values + 1)
        fresh = make(tmp_path, alpha=0.9, capacity=60, refresh_states=refresh)
        if field == "start_state" and refresh:  # the checkpoint holds it
            assert fresh.load_state_dict(state)
        else:
            with pytest.raises(ValueError, match=rf"field-{field}\.bin is damaged"):
                fresh.load_state_dict(state)
        values.copy_(kept)
    assert make(tmp_path, alpha=0.9, capacity=60, refresh_states=refresh).load_state_dict(state)


def test_a_replay_follows_its_checkpoint_into_another_folder(tmp_path: Path) -> None:
    state, old = saved(tmp_path / "old", refresh_states=True)
    expected = [draw(old) for _ in range(5)]
    moved = make(tmp_path / "new", alpha=0.9, capacity=60, refresh_states=True)
    assert moved.load_state_dict(state)
    assert_same([draw(moved) for _ in range(5)], expected)


def test_a_replay_that_is_gone_starts_empty(tmp_path: Path) -> None:
    state, _ = saved(tmp_path / "old")
    shutil.rmtree(tmp_path / "old")
    fresh = make(tmp_path / "new", alpha=0.9, capacity=60)
    assert not fresh.load_state_dict(state)
    assert len(fresh) == 0
    fresh.extend(make_rows([[7]] * STREAMS))
    assert sorted(contents(fresh)) == [0, 1, 2]


def test_a_checkpoint_within_the_first_episodes_is_continued(tmp_path: Path) -> None:
    rows = make_rows([[30]] * STREAMS)
    old = make(tmp_path / "old")
    old.extend(rows[:5])
    torch.save(old.state_dict(), tmp_path / "state.pt")
    fresh = make(tmp_path / "new")
    assert fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    fresh.extend(rows[5:])
    check_contents(fresh, rows, plain_sequences(rows, 3, 6, 4))


def test_a_replay_of_another_form_is_refused(tmp_path: Path) -> None:
    state, _ = saved(tmp_path)
    with pytest.raises(ValueError, match=r"not fit the configured one: its sequence_length is 6, the configured one 5"):
        make(tmp_path, alpha=0.9, capacity=60, burn_in=4, length=5, overlap=1).load_state_dict(state)
    with pytest.raises(ValueError, match=r"its alpha is 0\.9, the configured one 0\.8"):
        make(tmp_path, alpha=0.8, capacity=60).load_state_dict(state)


# ----------------------------------------------------------------------------------------------------------- arguments
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overlap": 6}, r"overlap must lie in \[0, 5\]"),
        ({"overlap": -1}, r"overlap must lie in \[0, 5\]"),
        ({"burn_in": -1}, "burn_in must be at least 0, got -1"),
        ({"alpha": 1.5}, r"alpha must lie in \[0, 1\]"),
        ({"beta": -0.1}, r"beta must lie in \[0, 1\]"),
        ({"capacity": 9}, "capacity: 9 rows of each environment are less than one sequence of 10"),
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
