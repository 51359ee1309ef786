"""Single transitions of parallel streams: the right pairs of rows, each as often as the others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_replays import EPISODE, STREAMS, fill, settings

from datamodules.replay.single_steps import TransitionReplay
from modules.batch import Transition


def make(folder: Path, batch: int = 400) -> TransitionReplay:
    return TransitionReplay(settings(folder, length=2, batch_size=batch, stored_width=0))


def test_every_transition_within_an_episode_is_drawn_as_often_as_the_others(tmp_path: Path) -> None:
    replay = fill(make(tmp_path, 6000))  # rows 33 to 52 of each stream are left, the ring went round
    batch = Transition.from_tensordict(replay.sample())
    before, stream = batch.observation.long().unbind(-1)
    assert torch.equal(batch.next_observation[:, 0].long(), before + 1)
    assert torch.equal(batch.next_observation[:, 1].long(), stream)
    assert torch.equal(batch.action, before + 1 + 100 * stream)
    assert torch.equal(batch.reward, 0.5 * (before + 1))
    assert torch.equal(batch.terminated, (before + 1) % EPISODE == EPISODE - 1)
    assert not batch.truncated.any()
    pairs = {(t, n) for t in range(33, 52) for n in range(STREAMS) if (t + 1) % EPISODE}
    drawn, counts = torch.stack([before, stream], -1).unique(dim=0, return_counts=True)
    assert {tuple(pair) for pair in drawn.tolist()} == pairs
    expected = 6000 / len(pairs)
    assert ((counts - expected).abs() < 5 * expected**0.5).all()


def test_it_says_what_it_draws_and_continues_exactly(tmp_path: Path) -> None:
    replay = fill(make(tmp_path))
    assert replay.offer.transitions
    replay.sample()
    state = replay.state_dict()
    expected = [replay.sample() for _ in range(3)]
    again = make(tmp_path)
    assert again.load_state_dict(state)
    for batch in expected:
        assert (again.sample() == batch).all()


def test_other_lengths_and_rows_without_a_step_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="set sequence_length to 2"):
        TransitionReplay(settings(tmp_path / "a", stored_width=0))
    replay = make(tmp_path / "b", 2)
    fill(replay, 9)
    replay.files.values["is_first"].fill_(True)
    with pytest.raises(ValueError, match="hardly a transition"):
        replay.sample()
