"""Formulas of PPO against plain loops and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from modules.functional.distributions import clipped_normal_log_prob, normal_entropy
from modules.functional.proximal import (
    approximate_kl,
    beyond_clip,
    clipped_surrogate,
    clipped_value_loss,
    explained_variance,
    standardised,
)


@pytest.mark.parametrize("clip", [0.1, 0.3])
def test_the_surrogate_is_the_papers_and_has_a_gradient_where_a_step_would_help(clip: float) -> None:
    log_ratio = torch.linspace(-0.6, 0.6, 13, dtype=torch.float64).requires_grad_()
    for sign in (1.0, -2.0):
        loss = clipped_surrogate(log_ratio, torch.full((13,), sign, dtype=torch.float64), clip)
        (slope,) = torch.autograd.grad(loss.sum(), log_ratio)
        for x, found, gradient in zip(log_ratio.tolist(), loss.tolist(), slope.tolist(), strict=True):
            ratio = math.exp(x)
            assert found == pytest.approx(-min(ratio * sign, min(max(ratio, 1 - clip), 1 + clip) * sign))
            done = ratio > 1 + clip if sign > 0 else ratio < 1 - clip
            assert gradient == pytest.approx(0.0 if done else -ratio * sign)


def test_the_fraction_beyond_the_clip_counts_both_sides() -> None:
    log_ratio = torch.tensor([0.25, 0.15, 0.0, -0.2, -0.25]).exp().log()
    expected = [float(abs(math.exp(x) - 1.0) > 0.2) for x in log_ratio.tolist()]
    assert expected == [1.0, 0.0, 0.0, 0.0, 1.0]
    assert beyond_clip(log_ratio, 0.2).tolist() == expected


def test_the_approximate_kl_is_that_of_two_policies_in_the_mean() -> None:
    old, new = torch.tensor([[0.2, 0.5, 0.3], [0.25, 0.25, 0.5]], dtype=torch.float64)
    estimates = approximate_kl((new / old).log())
    assert estimates.tolist() == pytest.approx(
        [n / o - 1 - math.log(n / o) for n, o in zip(new.tolist(), old.tolist(), strict=True)]
    )
    assert (estimates >= 0).all()
    kl = sum(o * math.log(o / n) for o, n in zip(old.tolist(), new.tolist(), strict=True))
    assert (old * estimates).sum().item() == pytest.approx(kl)


def test_a_clipped_value_loss_is_the_worse_of_two() -> None:
    value = torch.linspace(-1.0, 1.0, 21, dtype=torch.float64).requires_grad_()
    before, target, clip = 0.2, 0.55, 0.3

    def loss(x: torch.Tensor) -> torch.Tensor:
        return 0.5 * (x - target).square()

    found = clipped_value_loss(loss, value, torch.full((21,), before, dtype=torch.float64), clip)
    (slope,) = torch.autograd.grad(found.sum(), value)
    for v, one, gradient in zip(value.tolist(), found.tolist(), slope.tolist(), strict=True):
        held = min(max(v, before - clip), before + clip)
        assert one == pytest.approx(max(0.5 * (v - target) ** 2, 0.5 * (held - target) ** 2))
        if before + clip < v < target:  # has moved far enough towards the target
            assert gradient == 0.0
        elif abs(v - before) < clip:
            assert gradient == pytest.approx(v - target)


def test_the_explained_variance_tells_all_nothing_or_less() -> None:
    target = torch.tensor([1.0, -2.0, 4.0, 0.5])
    value = torch.tensor([0.5, -1.0, 3.0, 1.0])
    expected = 1.0 - np.var(target.numpy() - value.numpy()) / np.var(target.numpy())
    assert explained_variance(value, target).item() == pytest.approx(expected, rel=1e-5)
    assert explained_variance(target + 3.0, target).item() == pytest.approx(1.0)
    assert explained_variance(torch.full((4,), 7.0), target).item() == pytest.approx(0.0)
    assert explained_variance(-target, target).item() == pytest.approx(-3.0)
    assert explained_variance(value, torch.ones(4)).item() == 0.0


@pytest.mark.parametrize("middle", [0.0, 1e4])
def test_numbers_are_standardised_by_what_is_known_of_all_of_them(middle: float) -> None:
    everyone = middle + torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    large = everyone.double()
    sums = torch.full((3, 1), 50.0).double(), large.sum(1, True), large.square().sum(1, True)
    expected = (large - large.mean(1, True)) / (large.std(1, keepdim=True) + 1e-8)
    found = standardised(everyone[:, :20], *sums)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected[:, :20], rtol=1e-5, atol=1e-5)
    alone = standardised(torch.tensor([5.0]), *torch.tensor([1.0, 5.0, 25.0]).double())
    assert alone.tolist() == [0.0]


def test_a_clipped_normal_has_all_of_its_probability() -> None:
    """The density between the bounds and the two tails add up to one; outside of the tails it is a normal's."""
    mean, log_std = torch.tensor(0.4, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64).log()
    normal = torch.distributions.Normal(mean, log_std.exp())
    grid = torch.linspace(-1.0, 1.0, 20001, dtype=torch.float64)[1:-1]
    inside = clipped_normal_log_prob(grid, mean, log_std)
    torch.testing.assert_close(inside, normal.log_prob(grid))
    ends = clipped_normal_log_prob(torch.tensor([-1.0, 1.0], dtype=torch.float64), mean, log_std).exp()
    torch.testing.assert_close(ends, torch.stack([normal.cdf(-1 * torch.ones_like(mean)),
                                                  1 - normal.cdf(torch.ones_like(mean))]))  # fmt: skip
    assert (inside.exp().sum() * 1e-4 + ends.sum()).item() == pytest.approx(1.0, abs=1e-3)
    assert normal_entropy(log_std).item() == pytest.approx(normal.entropy().item())


def test_actions_a_rounding_away_from_a_bound_are_on_it() -> None:
    mean, log_std = torch.tensor([0.9]), torch.tensor([-1.0])
    on, near = (clipped_normal_log_prob(torch.tensor([x]), mean, log_std) for x in (1.0, 1.0 - 2e-7))
    assert torch.equal(on, near)
    far = clipped_normal_log_prob(torch.tensor([1.0]), torch.tensor([-30.0]), torch.tensor([-1.0]))
    assert far.isfinite().all()
