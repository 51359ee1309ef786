"""Weights of episodes by their returns, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from modules.functional.trajectory_weights import return_weights


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
