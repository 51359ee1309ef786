"""Weights of episodes by their returns, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from modules.functional.trajectory_weights import LEAST_SHARE, effective_share, return_weights, wide_enough


def test_weights_fall_by_the_distance_from_the_best_return() -> None:
    among = torch.tensor([-100.0, 100.0, 0.0])
    weights = return_weights(torch.tensor([100.0, 0.0, -100.0, 250.0, -300.0]), 0.1, among)
    assert weights.tolist() == pytest.approx([1.0, math.exp(-5.0), math.exp(-10.0), 1.0, math.exp(-20.0)])
    assert return_weights(among, 1e6, among).tolist() == pytest.approx([1.0, 1.0, 1.0], abs=1e-5)


def test_units_of_returns_do_not_matter() -> None:
    returns = torch.rand(20, generator=torch.Generator().manual_seed(0))
    moved = 1000.0 * returns - 300.0
    torch.testing.assert_close(
        return_weights(moved, 0.2, moved), return_weights(returns, 0.2, returns), rtol=1e-5, atol=1e-7
    )


def test_episodes_that_are_all_alike_count_alike() -> None:
    assert return_weights(torch.tensor([3.0, 3.0, 4.0]), 0.1, torch.tensor([3.0, 3.0])).tolist() == [1.0, 1.0, 1.0]


def test_the_effective_share_counts_transitions_that_say_as_much() -> None:
    lengths = torch.tensor([10, 30, 60])
    assert effective_share(torch.ones(3), lengths) == pytest.approx(1.0)
    assert effective_share(torch.tensor([0.0, 7.0, 0.0]), lengths) == pytest.approx(0.3)
    shares = (10.0 * 1.0 + 30.0 * 0.5) ** 2 / (10.0 * 1.0 + 30.0 * 0.25) / 100.0
    assert effective_share(torch.tensor([1.0, 0.5, 0.0]), lengths) == pytest.approx(shares)


def test_a_temperature_that_would_leave_too_little_is_raised_to_what_leaves_enough() -> None:
    returns = torch.linspace(0.0, 100.0, 200).square()
    lengths = torch.randint(1, 50, (200,), generator=torch.Generator().manual_seed(0))
    raised = wide_enough(0.01, returns, lengths)
    assert 0.01 < raised < 1.0
    assert effective_share(return_weights(returns, raised, returns), lengths) == pytest.approx(LEAST_SHARE)
    assert wide_enough(0.5, returns, lengths) == 0.5
    assert wide_enough(0.01, torch.ones(5), torch.ones(5)) == 0.01  # all alike


def test_one_good_short_episode_among_long_bad_ones_is_not_all_that_counts() -> None:
    returns, lengths = torch.tensor([1.0, *[0.0] * 99]), torch.tensor([2, *[100] * 99])
    weights = return_weights(returns, wide_enough(0.05, returns, lengths), returns)
    assert effective_share(weights, lengths) == pytest.approx(LEAST_SHARE)
