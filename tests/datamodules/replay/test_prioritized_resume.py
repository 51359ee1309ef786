"""Prioritised sequences in checkpoints: a fresh process goes on as if nothing had happened, or says why not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from prioritized_rows import STREAMS, check_contents, contents, draw, make, make_rows, random_lengths

from datamodules.replay.episode_cutter import plain_sequences
from datamodules.replay.prioritized import PrioritizedReplay
from modules.batch import PrioritizedSequences
from modules.contracts import Feedback

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
        pairs = [*zip(one[1:6], other[1:6], strict=True)]
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
@pytest.mark.parametrize(("later", "every_start"), [(0, False), (40, False), (0, True), (40, True)])
def test_a_fresh_process_continues_as_if_it_had_never_stopped(
    tmp_path: Path, refresh: bool, later: int, every_start: bool
) -> None:
    form = {"refresh_states": refresh, "stored_rows": refresh, "every_start": every_start}
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


@pytest.mark.parametrize(("every_start", "stride"), [(False, 4), (True, 4), (True, 1)])
def test_a_checkpoint_within_the_first_episodes_is_continued(tmp_path: Path, every_start: bool, stride: int) -> None:
    rows = make_rows([[30], [8, 22], [6, 24]], flagged=not every_start)
    form = {"every_start": every_start, "overlap": 6 - stride}
    old = make(tmp_path / "old", **form)
    old.extend(rows[:5])
    torch.save(old.state_dict(), tmp_path / "state.pt")
    fresh = make(tmp_path / "new", **form)
    assert fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    fresh.extend(rows[5:])
    check_contents(fresh, rows, plain_sequences(rows, 3, 6, stride, every_start=every_start))


@pytest.mark.parametrize("stride", [1, 2, 6])
def test_ends_that_finish_many_sequences_at_once_leave_a_checkpoint_whole(tmp_path: Path, stride: int) -> None:
    form: dict[str, Any] = {"every_start": True, "overlap": 6 - stride, "burn_in": 0, "margin": 1, "capacity": 12}
    rows = make_rows([[30, 7]] * STREAMS)
    old = make(tmp_path, **form)
    old.extend(rows[:36])
    torch.save(old.state_dict(), tmp_path / "state.pt")
    expected = [draw(old) for _ in range(3)]
    old.extend(rows[36:])  # the last row of every stream's episode
    assert old.ring.count == STREAMS * (-(-29 // stride) + 6 // stride)
    fresh = make(tmp_path, **form)
    assert fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert_same([draw(fresh) for _ in range(3)], expected)


def test_a_replay_of_another_form_is_refused(tmp_path: Path) -> None:
    state, _ = saved(tmp_path)
    with pytest.raises(ValueError, match=r"not fit the configured one: its sequence_length is 6, the configured one 5"):
        make(tmp_path, alpha=0.9, capacity=60, burn_in=4, length=5, overlap=1).load_state_dict(state)
    with pytest.raises(ValueError, match="its every_start is False, the configured one True"):
        make(tmp_path, alpha=0.9, capacity=60, every_start=True).load_state_dict(state)
    with pytest.raises(ValueError, match=r"its alpha is 0\.9, the configured one 0\.8"):
        make(tmp_path, alpha=0.8, capacity=60).load_state_dict(state)
