"""Returns against their definition, summed term by term."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modules.functional.returns import lambda_returns


def n_step(reward: Tensor, discount: Tensor, value: Tensor, start: int, steps: int) -> Tensor:
    total, weight = torch.zeros_like(value[0]), torch.ones_like(value[0])
    for t in range(start, start + steps):
        total, weight = total + weight * reward[t], weight * discount[t]
    return total + weight * value[start + steps]


def by_definition(reward: Tensor, discount: Tensor, value: Tensor, lambda_: float) -> Tensor:
    rows, length = [], len(reward)
    for t in range(length):
        left = length - t
        mixed = sum((1 - lambda_) * lambda_ ** (n - 1) * n_step(reward, discount, value, t, n) for n in range(1, left))
        rows.append(mixed + lambda_ ** (left - 1) * n_step(reward, discount, value, t, left))
    return torch.stack(rows)


@pytest.mark.parametrize("lambda_", [0.0, 0.5, 0.95, 1.0])
def test_weighted_mean_of_all_n_step_returns_with_an_end_inside(lambda_: float) -> None:
    torch.manual_seed(0)
    reward, value = torch.randn(9, 4, dtype=torch.float64), torch.randn(10, 4, dtype=torch.float64)
    discount = 0.9 * torch.rand(9, 4, dtype=torch.float64)
    discount[4, :2] = 0.0
    expected = by_definition(reward, discount, value, lambda_)
    torch.testing.assert_close(lambda_returns(reward, discount, value, lambda_), expected)
    torch.testing.assert_close(lambda_returns(reward, discount, value, torch.tensor(lambda_).double()), expected)


def test_known_numbers() -> None:
    reward, discount = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.5, 0.5, 0.0])
    value = torch.tensor([100.0, 10.0, 20.0, 1000.0])
    assert lambda_returns(reward, discount, value, 1.0).tolist() == [3.0, 4.0, 4.0]
    assert lambda_returns(reward, discount, value, 0.0).tolist() == [6.0, 12.0, 4.0]


def test_nothing_behind_an_end_is_seen() -> None:
    reward, discount, value = torch.randn(6), torch.full((6,), 0.9), torch.randn(7)
    discount[2] = 0.0
    changed = reward.clone()
    changed[3:] += 100.0
    before, after = (lambda_returns(r, discount, value, 0.95) for r in (reward, changed))
    assert torch.equal(before[:3], after[:3])
    assert (after[3:] > before[3:] + 50.0).all()


def test_gradients_reach_rewards_discounts_and_the_bootstrap() -> None:
    inputs = [x.double().requires_grad_() for x in (torch.rand(4, 2), torch.rand(4, 2), torch.rand(5, 2))]
    assert torch.autograd.gradcheck(lambda r, d, v: lambda_returns(r, d, v, 0.8), inputs)
