"""Returns against their definition, summed term by term."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modules.functional.returns import (
    discount_unless_terminal,
    generalised_advantages,
    lambda_returns,
    n_step_returns,
    plain_lambda_returns,
    plain_n_step_returns,
    plain_vtrace,
    replay_returns,
    vtrace,
    vtrace_advantages,
)


@pytest.mark.parametrize("lambda_", [0.0, 0.5, 0.95, 1.0])
def test_weighted_mean_of_all_n_step_returns_with_an_end_inside(lambda_: float) -> None:
    torch.manual_seed(0)
    reward, value = torch.randn(9, 4, dtype=torch.float64), torch.randn(10, 4, dtype=torch.float64)
    discount = 0.9 * torch.rand(9, 4, dtype=torch.float64)
    discount[4, :2] = 0.0
    expected = plain_lambda_returns(reward, discount, value, lambda_)
    torch.testing.assert_close(lambda_returns(reward, discount, value, lambda_), expected)
    torch.testing.assert_close(lambda_returns(reward, discount, value, torch.tensor(lambda_).double()), expected)


def test_known_numbers() -> None:
    reward, discount = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.5, 0.5, 0.0])
    value = torch.tensor([100.0, 10.0, 20.0, 1000.0])
    for returns in (lambda_returns, plain_lambda_returns):
        assert returns(reward, discount, value, 1.0).tolist() == [3.0, 4.0, 4.0]
        assert returns(reward, discount, value, 0.0).tolist() == [6.0, 12.0, 4.0]


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


def random_steps(length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rewards, discounts with ends inside, values and ratios above and below 1."""
    torch.manual_seed(1)
    reward, value = torch.randn(length, 4, dtype=torch.float64), torch.randn(length + 1, 4, dtype=torch.float64)
    discount = torch.rand(length, 4, dtype=torch.float64)
    discount[3, 1], discount[5, 2:] = 0.0, 0.0
    return reward, discount, value, torch.randn(length, 4, dtype=torch.float64).exp()


@pytest.mark.parametrize("n", [1, 3, 8, 9, 50])
def test_n_steps_and_fewer_near_the_end(n: int) -> None:
    reward, discount, value, _ = random_steps(9)
    expected = plain_n_step_returns(reward, discount, value, n)
    torch.testing.assert_close(n_step_returns(reward, discount, value, n), expected)


def test_n_step_returns_of_known_numbers() -> None:
    reward, discount = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.5, 0.5, 0.5])
    value = torch.tensor([100.0, 10.0, 20.0, 1000.0])
    for returns in (n_step_returns, plain_n_step_returns):
        assert returns(reward, discount, value, 1).tolist() == [6.0, 12.0, 504.0]
        assert returns(reward, discount, value, 2).tolist() == [7.0, 254.0, 504.0]


@pytest.mark.parametrize("lambda_", [0.0, 0.7, 1.0])
def test_vtrace_and_its_advantages_by_definition(lambda_: float) -> None:
    steps = random_steps(9)
    reward, discount, value, rho = steps
    targets = vtrace(*steps, lambda_)
    torch.testing.assert_close(targets, plain_vtrace(*steps, lambda_))
    following = [*targets[1:], value[-1]]
    slow = [rho[t].clamp(max=1.0) * (reward[t] + discount[t] * following[t] - value[t]) for t in range(9)]
    torch.testing.assert_close(vtrace_advantages(reward, discount, value, targets, rho), torch.stack(slow))


@pytest.mark.parametrize("lambda_", [0.0, 0.7, 1.0])
def test_generalised_advantages_by_definition(lambda_: float) -> None:
    reward, discount, value, _ = random_steps(9)
    ones = torch.ones_like(reward)
    targets = vtrace(reward, discount, value, ones, lambda_)
    found, weight = generalised_advantages(value, targets), torch.ones_like(reward[0])
    expected = torch.zeros_like(reward[0])
    for t in range(9):  # Schulman et al. 2016, equation 16, of the first row
        expected = expected + weight * (reward[t] + discount[t] * value[t + 1] - value[t])
        weight = weight * lambda_ * discount[t]
    torch.testing.assert_close(found[0], expected)
    impala = vtrace_advantages(reward, discount, value, targets, ones)
    assert torch.allclose(found, impala) == (lambda_ == 1.0)


def test_both_advantages_of_three_steps_by_hand() -> None:
    reward, value = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[0.0], [10.0], [20.0], [8.0]])
    discount, ones = torch.full((3, 1), 0.5), torch.ones(3, 1)
    targets = vtrace(reward, discount, value, ones, 0.5)  # errors 6, 2, -12
    assert targets.squeeze(-1).tolist() == [5.75, 9.0, 8.0]
    assert plain_vtrace(reward, discount, value, ones, 0.5).squeeze(-1).tolist() == [5.75, 9.0, 8.0]
    assert generalised_advantages(value, targets).squeeze(-1).tolist() == [5.75, -1.0, -12.0]
    assert vtrace_advantages(reward, discount, value, targets, ones).squeeze(-1).tolist() == [5.5, -4.0, -12.0]


def test_vtrace_of_the_acting_policy_is_its_return_and_of_an_impossible_action_the_value() -> None:
    reward, discount, value, _ = random_steps(9)
    ones = torch.ones_like(reward)
    returns = lambda_returns(reward, discount, value, 0.9)
    torch.testing.assert_close(vtrace(reward, discount, value, ones, 0.9), returns)
    torch.testing.assert_close(vtrace(reward, discount, value, 7.0 * ones, 0.9), returns)  # ratios are clipped at 1
    torch.testing.assert_close(vtrace(reward, discount, value, 0.0 * ones, 0.9), value[:-1])


def test_discounts_of_other_steps_are_refused_and_not_cut() -> None:
    """One row of discounts would broadcast in the first sum: no return of the last step alone may come of it."""
    reward, value, ones = torch.ones(3, 2), torch.ones(4, 2), torch.ones(1, 2)
    with pytest.raises(ValueError, match="shorter"):
        lambda_returns(reward, ones, value, 0.5)
    with pytest.raises(ValueError, match="shorter"):
        vtrace(reward, ones, value, ones, 0.5)


def test_nothing_follows_a_terminal_state() -> None:
    terminated = torch.tensor([[False, True], [True, False]])
    assert discount_unless_terminal(0.5, terminated).tolist() == [[0.5, 0.0], [0.0, 0.5]]


def test_returns_of_what_was_played_end_in_given_values_and_at_the_ends_of_episodes() -> None:
    torch.manual_seed(0)
    reward, bootstrap = torch.randn(7, 3, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    terminated = torch.zeros(7, 3, dtype=torch.bool)
    terminated[3, 0] = True
    last = terminated.clone()
    last[4, 1] = True  # at a time limit
    found = replay_returns(reward, terminated, last, bootstrap, 0.9, 0.8)
    assert found.shape == (6, 3)
    for column in range(3):
        following = bootstrap[6, column]
        for t in reversed(range(6)):
            live = 0.0 if terminated[t + 1, column] else 0.9
            share = 0.0 if last[t + 1, column] else 0.8
            following = reward[t + 1, column] + live * ((1 - share) * bootstrap[t + 1, column] + share * following)
            torch.testing.assert_close(found[t, column], following)
    torch.testing.assert_close(found[2, 0], reward[3, 0])
    torch.testing.assert_close(found[3, 1], reward[4, 1] + 0.9 * bootstrap[4, 1])
