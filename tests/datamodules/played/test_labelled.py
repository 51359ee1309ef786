"""Labelled rows: every label is of the observation beside it, through ends and resets of episodes."""

from __future__ import annotations

import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch

from datamodules.envs.labels import CatchLabels, Labels
from datamodules.envs.make import EnvironmentSpec
from datamodules.played.labelled import play_labelled

SPEC = EnvironmentSpec("reverie/Catch-v0")


def test_labels_are_those_of_the_rows() -> None:
    rows, labels = play_labelled(SPEC, CatchLabels(), None, streams=3, length=25, seed=5)
    assert rows.batch_size == (25, 3)
    first = rows["is_first"].numpy()
    assert first[:, 0].nonzero()[0].tolist() == [0, 10, 20]
    for t, n in itertools.product(range(25), range(3)):
        board = np.zeros((10, 5, 1), np.uint8)
        board[labels["ball_row"][t, n], labels["ball_column"][t, n]] = board[9, labels["paddle"][t, n]] = 255
        np.testing.assert_array_equal(rows["observation"][t, n].numpy(), board)
    assert labels["ball_row"].dtype == np.int64
    again, same = play_labelled(SPEC, CatchLabels(), None, streams=3, length=25, seed=5)
    assert all(np.array_equal(labels[name], same[name]) for name in labels)
    assert torch.equal(rows["previous_action"], again["previous_action"])


class Growing(Labels):
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, env: gym.Env) -> dict[str, float]:
        self.calls += 1
        return {"a": 1} if self.calls < 3 else {"a": 1, "b": 2}


def test_labels_that_come_and_go_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must always have the names \['a'\]: \['a', 'b'\]"):
        play_labelled(SPEC, Growing(), None, streams=2, length=3, seed=0)
