"""A learned beta: how its bound is measured, which way it goes, and where it cannot work."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_on_ranks
from torch import Tensor

from modules.agent.adaptive_beta import LEAST_BETA, AdaptiveBeta, BellmanBound
from modules.agent.multiplier import LARGEST

BOTH = torch.ones(2, 1)


def test_the_bound_is_a_multiple_of_the_average_error_of_the_warm_start() -> None:
    bound, average = BellmanBound(1.5, 0.1, [4.0, 0.5], BOTH), [0.0, 0.0]
    generator = torch.Generator().manual_seed(0)
    for update in range(1, 301):
        error = torch.rand(2, 2, generator=generator)
        beta, metrics = bound.weigh(error, True)
        for m in range(2):
            mean = (error[0, m].item() + error[1, m].item()) / 2
            average[m] += max(1 / update, 0.01) * (mean - average[m])
        assert metrics["bellman_bound"].tolist() == pytest.approx([1.5 * x for x in average], rel=1e-4)
        assert beta.tolist() == pytest.approx([4.0, 0.5])
        assert metrics["beta"].tolist() == beta.tolist()


def test_each_beta_grows_above_its_bound_and_falls_below_it() -> None:
    bound = BellmanBound(2.0, 0.125, [4.0, 0.5], BOTH)
    bound.weigh(torch.tensor([[1.0, 3.0], [3.0, 5.0]]), True)  # bounds of 4 and 8
    beta, metrics = bound.weigh(torch.tensor([[4.0, 7.0], [4.5, 8.0]]), False)
    assert metrics["bellman_bound"].tolist() == [4.0, 8.0]
    # Adam's first step is the learning rate.
    assert beta.tolist() == pytest.approx([4.0 * math.exp(0.125), 0.5 * math.exp(-0.125)], rel=1e-4)
    assert not beta.requires_grad
    gradients = bound.multiplier.optimizer.state[bound.multiplier.log_value]["exp_avg"]
    torch.testing.assert_close(gradients, torch.tensor([0.1 * 4.0 * -0.25, 0.1 * 0.5 * 0.5]))


def test_a_critic_without_pessimism_does_not_count() -> None:
    bound = BellmanBound(1.0, 0.1, [1.0], torch.tensor([[0.0], [1.0]]))
    _, metrics = bound.weigh(torch.tensor([[100.0], [3.0]]), True)
    assert metrics["bellman_bound"].item() == 3.0


def test_beta_stays_where_it_can_come_back_from() -> None:
    bound = BellmanBound(1.0, 100.0, [1.0, 1.0], BOTH)
    bound.weigh(torch.ones(2, 2), True)
    beta, _ = bound.weigh(torch.tensor([[2.0, 0.5], [2.0, 0.5]]), False)
    assert beta.tolist() == pytest.approx([LARGEST, LEAST_BETA])


def measured_on(rank: int) -> list[Tensor]:
    bound = BellmanBound(1.0, 0.1, [1.0], BOTH)
    bound.weigh(torch.full((2, 1), 1.0 + 2.0 * rank), True)
    bound.weigh(torch.full((2, 1), 1.0 + 4.0 * rank), False)  # one rank's error below the bound, the mean above it
    return [bound.settled, bound.multiplier.log_value.detach()]


def test_ranks_have_one_bound_and_one_beta(tmp_path: Path) -> None:
    first, second = run_on_ranks(2, tmp_path, measured_on)
    for mine, theirs in zip(first, second, strict=True):
        assert torch.equal(mine, theirs)
    assert first[0].item() == 2.0
    assert first[1].item() == pytest.approx(0.1, rel=1e-4)


def test_there_is_none_without_a_tolerance() -> None:
    assert AdaptiveBeta().make_bound([4.0], BOTH) is None
    AdaptiveBeta().check([0.0], 0, False)
    made = AdaptiveBeta(2.0, 0.5).make_bound([4.0], BOTH)
    assert made is not None
    assert (made.tolerance, made.multiplier.optimizer.param_groups[0]["lr"]) == (2.0, 0.5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tolerance": 0.0}, r"adaptive_beta\.tolerance must lie in"),
        ({"tolerance": math.nan}, r"adaptive_beta\.tolerance must lie in"),
        ({"tolerance": "auto"}, r"adaptive_beta\.tolerance must be float or None"),
        ({"lr": -1.0}, r"adaptive_beta\.lr must lie in"),
    ],
)
def test_what_is_no_bound_is_refused_by_its_name(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        AdaptiveBeta(**settings)


@pytest.mark.parametrize(
    ("beta", "updates", "critic", "said"),
    [
        ([1.0], 0, True, r"set warm_start\.updates above 0"),
        ([1.0], 5, False, r"warm_start\.critic to true"),
        ([1.0, 0.0], 5, True, "beta, from which adaptive_beta starts, must lie in"),
        ([1e7], 5, True, "beta, from which adaptive_beta starts, must lie in"),
    ],
)
def test_a_bound_that_is_never_measured_and_a_start_out_of_reach_are_refused(
    beta: list[float], updates: int, critic: bool, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        AdaptiveBeta(1.5).check(beta, updates, critic)
