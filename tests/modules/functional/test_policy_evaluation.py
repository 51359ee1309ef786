from __future__ import annotations

import math

import pytest
import torch

from modules.functional.policy_evaluation import discounted_returns, lstd_losses, lstd_tournament, value_range


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


def test_losses_are_those_of_the_linear_equations_written_out() -> None:
    torch.manual_seed(0)
    reward, discount, _ = chain()
    value, following = torch.randn(3, 4), torch.randn(3, 4)
    expected = []
    for i in range(3):
        worst = 0.0
        for j in range(3):
            # Features of the pair, scaled to the second moment 1: `A theta - b` with theta of candidate i.
            pair = [(value[i], following[i])] + ([] if i == j else [(value[j] - value[i], following[j] - following[i])])
            sizes = [math.sqrt(sum(float(x) ** 2 for x in now) / 4) for now, _ in pair]
            for row, size in zip(pair, sizes, strict=True):
                left = (
                    sum(float(row[0][n] / size * (pair[0][0][n] - discount[n] * pair[0][1][n])) for n in range(4)) / 4
                )
                right = sum(float(row[0][n] / size * reward[n]) for n in range(4)) / 4
                worst = max(worst, abs(left - right))
        expected.append(worst)
    found = lstd_losses(value, following, reward, discount)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-6)
    error = (value - reward - discount * following).square().mean(-1).sqrt()
    assert (found <= error + 1e-6).all()


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_true_values_win_wherever_they_stand(place: int) -> None:
    reward, discount, true = chain()
    others = [true + 0.3, 0.9 * true]
    others.insert(place, true)
    value = torch.stack(others)
    losses = lstd_losses(value, followed(value), reward, discount)
    assert float(losses[place]) == pytest.approx(0.0, abs=1e-7)
    assert lstd_tournament(losses) == place


def test_a_candidate_of_large_numbers_does_not_decide_among_the_others() -> None:
    rng = torch.Generator().manual_seed(0)
    reward, discount = torch.zeros(1000), torch.zeros(1000)
    large = torch.randn(1000, generator=rng)
    good, biased = 0.01 * large, torch.full_like(large, 0.5)  # the true values are 0
    for scale in (1.0, 1e6):
        value = torch.stack([good, biased, scale * large])
        assert lstd_tournament(lstd_losses(value, torch.zeros_like(value), reward, discount)) == 0
    biased = biased - (biased @ large) / (large @ large) * large  # its errors do not show along the large one
    value = torch.stack([good, biased, 1e6 * large])
    assert lstd_tournament(lstd_losses(value, torch.zeros_like(value), reward, discount)) == 0


def test_equal_candidates_are_not_held_against_each_other() -> None:
    reward, discount, true = chain()
    value = torch.stack([true + 0.3, true + 0.3, torch.zeros(4)])
    losses = lstd_losses(value, followed(value), reward, discount)
    assert losses.isfinite().all()
    assert losses[0] == losses[1]


def test_candidates_that_are_not_finite_lose() -> None:
    reward, discount, true = chain()
    value = torch.stack([torch.full((4,), math.nan), true + 9.0, torch.full((4,), math.inf)])
    losses = lstd_losses(value, followed(value), reward, discount)
    assert losses.isfinite().tolist() == [False, True, False]
    assert lstd_tournament(losses) == 1
    with pytest.raises(ValueError, match="no candidate of the tournament is finite"):
        lstd_tournament(losses[[0, 2]])
