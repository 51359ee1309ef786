"""Losses of cloning against their definitions, and at the bounds of the actions."""

from __future__ import annotations

import math

import pytest
import torch

from modules.functional.cloning import ERROR_WEIGHT, action_regression, censored_log_prob, cloning_loss
from modules.functional.distributions import tanh_normal_log_prob


def test_actions_near_the_bound_count_by_the_probability_of_lying_beyond() -> None:
    """The probabilities of both ends and the density between them are one distribution: together they make 1."""
    mean, log_std, saturation = 0.4, math.log(0.9), 0.05
    bound = 1 - saturation
    action = torch.linspace(-bound, bound, 20_001, dtype=torch.float64)[1:-1]
    inside = censored_log_prob(action, torch.tensor(mean), torch.tensor(log_std), saturation).exp()
    ends = torch.tensor([-1.0, -bound, bound, 1.0], dtype=torch.float64)
    below, also_below, above, also_above = censored_log_prob(
        ends, torch.tensor(mean), torch.tensor(log_std), saturation
    ).exp()
    assert below == also_below
    assert above == also_above
    normal = torch.distributions.Normal(mean, math.exp(log_std))
    assert above.item() == pytest.approx(1 - normal.cdf(torch.tensor(math.atanh(bound))).item(), rel=1e-5)
    total = torch.trapezoid(inside, action) + below + above
    assert total.item() == pytest.approx(1.0, abs=1e-3)
    torch.testing.assert_close(
        inside, tanh_normal_log_prob(action, torch.tensor(mean), torch.tensor(log_std)).exp(), rtol=1e-6, atol=0
    )


def test_without_saturation_it_is_the_plain_density() -> None:
    action, mean, log_std = torch.rand(3, 5) * 2 - 1, torch.randn(3, 5), torch.randn(3, 5)
    action[0, 0] = 1.0
    assert torch.equal(censored_log_prob(action, mean, log_std, 0.0), tanh_normal_log_prob(action, mean, log_std))


@pytest.mark.parametrize("distance", [0.0, 30.0])
def test_gradients_are_finite_at_the_bound_and_fade_when_the_mean_is_beyond(distance: float) -> None:
    mean, log_std = torch.tensor([distance, -distance]).requires_grad_(), torch.full((2,), -1.0).requires_grad_()
    censored_log_prob(torch.tensor([1.0, -1.0]), mean, log_std, 0.01).sum().backward()
    assert mean.grad is not None
    assert log_std.grad is not None
    assert mean.grad.isfinite().all()
    assert log_std.grad.isfinite().all()
    assert (mean.grad * torch.tensor([1.0, -1.0]) >= 0).all()  # never back inside
    assert (mean.grad.abs() > 1.0).all() == (distance == 0)  # and no further where it has arrived
    # An uncensored density would pull it back from there.
    far = torch.tensor([30.0]).requires_grad_()
    tanh_normal_log_prob(torch.tensor([1.0]), far, torch.tensor([-1.0])).sum().backward()
    assert far.grad is not None
    assert far.grad.item() < -100


def test_regression_moves_the_mean_by_the_error_alone_and_the_deviation_by_the_likelihood() -> None:
    action, mean, log_std = (
        x.requires_grad_() for x in (torch.tensor([0.3]), torch.tensor([0.8]), torch.tensor([-0.5]))
    )
    action_regression(action.detach(), mean, log_std, 0.01).sum().backward()
    by_mean, by_deviation = mean.grad, log_std.grad
    assert by_mean is not None
    assert by_deviation is not None
    squashed = math.tanh(0.8)
    assert by_mean.item() == pytest.approx(ERROR_WEIGHT * 2 * (squashed - 0.3) * (1 - squashed**2), rel=1e-5)
    score = (math.atanh(0.3) - 0.8) / math.exp(-0.5)
    assert by_deviation.item() == pytest.approx(1 - score**2, rel=1e-5)


def test_the_kinds_of_loss_are_one_of_the_two_each() -> None:
    generator = torch.Generator().manual_seed(0)
    action = torch.rand(4, 3, generator=generator) * 2 - 1
    mean, log_std = torch.randn(4, 3, generator=generator), torch.randn(4, 3, generator=generator)
    action[0] = torch.tensor([1.0, -1.0, 0.995])
    likelihood = cloning_loss("likelihood", action, mean, log_std, 0.01)
    assert torch.equal(likelihood, -censored_log_prob(action, mean, log_std, 0.01))
    error = ERROR_WEIGHT * (mean.tanh() - action).square()
    torch.testing.assert_close(cloning_loss("squared_error", action, mean, log_std, 0.01), error + likelihood)
    # The distance counts: within it lies the third entry, too, within a smaller one it has a density.
    assert not torch.equal(likelihood[0, 2], cloning_loss("likelihood", action, mean, log_std, 0.001)[0, 2])
