"""The choice among candidates, and its guard."""

from __future__ import annotations

import torch

from modules.functional.lookahead_choice import choose, sequences


def test_the_best_mean_is_chosen_where_its_gain_clears_the_spread() -> None:
    #                         base  a     b
    first = torch.tensor([[0.0, 2.0, 1.0]])
    second = torch.tensor([[0.0, 0.0, 0.8]])
    scores = torch.stack([first, second])  # a: gain 1 with deviation 1; b: 0.9 with 0.1
    assert choose(scores, 0.0, 0.9)[0].tolist() == [1]
    index, gain = choose(scores, 0.0, 1.0)
    assert (index.tolist(), gain.tolist()) == ([0], [0.0])
    index, gain = choose(scores, 0.2, 1.0)
    assert index.tolist() == [2]
    torch.testing.assert_close(gain, torch.tensor([0.9]))


def test_a_gain_that_all_models_share_counts_however_much_they_differ() -> None:
    scores = torch.tensor([[[0.0, 1.0]], [[100.0, 101.0]], [[-50.0, -49.0]]])
    assert choose(scores, 0.0, 5.0)[0].tolist() == [1]


def test_ties_and_nan_keep_the_first() -> None:
    scores = torch.tensor([[[1.0, 1.0], [0.0, torch.nan], [0.0, 0.1]]])
    assert choose(scores, 0.0, 1.0)[0].tolist() == [0, 0, 1]


def test_all_sequences_are_there_once() -> None:
    assert sequences(2, 2).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert len({tuple(row) for row in sequences(3, 3).tolist()}) == 27
