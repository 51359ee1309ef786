from __future__ import annotations

import math

import pytest
import torch

from modules.functional.policy_evaluation import discounted_returns, lstd_moments, lstd_tournament, value_range


def test_values_lie_between_sums_of_equal_rewards() -> None:
    assert value_range(torch.tensor([-1.0, 2.0]), 0.5) == (-2.0, 4.0)
    assert value_range(torch.tensor([1.0, 2.0]), 0.5) == (1.0, 4.0)  # an episode may end at once
    assert value_range(torch.tensor([-3.0, -2.0]), 0.5) == (-6.0, -2.0)
    assert value_range(torch.tensor([1.0]), 1.0) == (-math.inf, math.inf)


def test_returns_are_sums_to_the_end_of_the_episode() -> None:
    reward = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    returns = discounted_returns(reward, torch.tensor([3, 1, 2]), 0.5)
    assert returns.tolist() == [1 + 1 + 1, 2 + 2, 4.0, 8.0, 16 + 16, 32.0]


def chain() -> tuple[torch.Tensor, ...]:
    """All four steps of a chain with one action: rewards 1, 0, 0, 4, the last one terminal; discount one half."""
    reward, discount = torch.tensor([1.0, 0.0, 0.0, 4.0]), torch.tensor([0.5, 0.5, 0.5, 0.0])
    true = torch.tensor([1.5, 1.0, 2.0, 4.0])
    return reward, discount, true


def followed(value: torch.Tensor) -> torch.Tensor:
    """Values of what follows; behind the end stands what must not count."""
    return torch.cat([value[..., 1:], torch.full_like(value[..., :1], 99.0)], -1)


def test_moments_are_those_written_out() -> None:
    reward, discount, true = chain()
    value = torch.stack([true, torch.ones(4)])
    moments = lstd_moments(value, followed(value), reward, discount)
    # By hand, of the second: errors 1 - 1 - 0.5, 0.5, 0.5, -3.
    expected = [[0.0, (1.5 * -0.5 + 0.5 + 2 * 0.5 + 4 * -3.0) / 4], [0.0, (-0.5 + 0.5 + 0.5 - 3.0) / 4]]
    torch.testing.assert_close(moments, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_true_values_win_wherever_they_stand(place: int) -> None:
    reward, discount, true = chain()
    others = [true + 0.3, 0.9 * true]
    others.insert(place, true)
    value = torch.stack(others)
    assert lstd_tournament(lstd_moments(value, followed(value), reward, discount)) == place


def test_the_worst_pair_of_each_candidate_counts() -> None:
    # Alone the first violates nothing; held against the second it does, by more than the second ever does.
    assert lstd_tournament(torch.tensor([[0.0, -0.5], [-2.0, 1.0]])) == 1
    assert lstd_tournament(torch.tensor([[0.0, -0.5], [-0.9, 1.0]])) == 0
    assert lstd_tournament(torch.tensor([[3.0]])) == 0


def test_candidates_that_are_not_finite_lose() -> None:
    nan = math.nan
    assert lstd_tournament(torch.tensor([[nan, nan], [nan, 9.0]])) == 1
    assert lstd_tournament(torch.tensor([[1.0, math.inf, 0.0], [math.inf, math.inf, 0.0], [7.0, 0.0, 8.0]])) == 0
    with pytest.raises(ValueError, match="no candidate of the tournament is finite"):
        lstd_tournament(torch.full((2, 2), nan))
