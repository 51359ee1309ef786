"""Expectiles of known numbers, and weights of advantages."""

from __future__ import annotations

import math

import pytest
import torch

from modules.functional.expectiles import advantage_weight, expectile_loss


def test_the_loss_weighs_errors_above_and_below_zero() -> None:
    found = expectile_loss(torch.tensor([2.0, -2.0, 0.0, 1.0]), 0.7)
    torch.testing.assert_close(found, torch.tensor([0.7 * 4, 0.3 * 4, 0.0, 0.7]))
    by_member = expectile_loss(torch.tensor([[1.0, -1.0], [1.0, -1.0]]), torch.tensor([[0.5], [0.9]]))
    torch.testing.assert_close(by_member, torch.tensor([[0.5, 0.5], [0.9, 0.1]]))


@pytest.mark.parametrize(
    ("numbers", "expectile", "expected"),
    [
        ([0.0, 1.0], 0.9, 0.9),  # 0.9 (1 - v) = 0.1 v
        ([0.0, 1.0], 0.5, 0.5),
        ([-1.0, 0.0, 4.0], 0.5, 1.0),  # the mean
        ([-1.0, 0.0, 4.0], 0.8, 2.5),  # 0.8 (4 - v) = 0.2 (v + (v + 1))
        ([0.0, 10.0], 0.999, 9.99),  # near the maximum
    ],
)
def test_its_minimum_is_the_expectile(numbers: list[float], expectile: float, expected: float) -> None:
    x, grid = torch.tensor(numbers, dtype=torch.float64), torch.linspace(-1.0, 10.0, 1101, dtype=torch.float64)
    losses = expectile_loss(x[None] - grid[:, None], expectile).mean(-1)
    assert float(grid[losses.argmin()]) == pytest.approx(expected, abs=1e-9)
    v = torch.tensor(expected, dtype=torch.float64, requires_grad=True)
    expectile_loss(x - v, expectile).mean().backward()
    assert v.grad is not None
    assert abs(float(v.grad)) < 1e-12


def test_weights_grow_with_the_advantage_up_to_the_ceiling() -> None:
    found = advantage_weight(torch.tensor([0.0, 0.5, -0.5, 1.0, 1000.0]), 3.0, 10.0)
    expected = torch.tensor([1.0, math.exp(1.5), math.exp(-1.5), 10.0, 10.0])  # exp overflows before the ceiling
    torch.testing.assert_close(found, expected)
    assert torch.equal(advantage_weight(torch.tensor([-3.0, 3.0]), 0.0, 10.0), torch.ones(2))
