"""The written-out densities against torch's own distribution objects."""

import pytest
import torch
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from modules.functional.distributions import ACTION_BOUND, tanh_normal_log_prob, tanh_normal_sample


def reference(mean: torch.Tensor, log_std: torch.Tensor) -> TransformedDistribution:
    return TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform(cache_size=1)])


def test_sample_and_its_density_agree_with_torch() -> None:
    torch.manual_seed(0)
    mean, log_std, noise = (torch.randn(5, 7, 3, dtype=torch.float64) for _ in range(3))
    action, log_prob = tanh_normal_sample(mean, log_std, noise)
    torch.testing.assert_close(action, torch.tanh(mean + log_std.exp() * noise))
    inside = action.abs() < 0.999999  # torch's own inverse loses precision beyond
    expected = reference(mean, log_std).log_prob(action.clamp(-0.9999999, 0.9999999))
    torch.testing.assert_close(log_prob[inside], expected[inside], rtol=1e-6, atol=1e-6)


def test_density_of_given_actions_agrees_with_torch() -> None:
    torch.manual_seed(0)
    mean, log_std = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    action = 1.9 * torch.rand(6, 3, dtype=torch.float64) - 0.95
    torch.testing.assert_close(
        tanh_normal_log_prob(action, mean, log_std).sum(-1),
        Independent(reference(mean, log_std), 1).log_prob(action),
    )


def test_density_integrates_to_one() -> None:
    grid = torch.linspace(-1, 1, 200_001, dtype=torch.float64)[1:-1]
    density = tanh_normal_log_prob(grid, torch.tensor(0.3).double(), torch.tensor(-1.0).double()).exp()
    assert torch.trapezoid(density, grid).item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("bound", [-1.0, 1.0])
def test_actions_on_the_bound_have_a_finite_density_and_gradient(bound: float) -> None:
    mean = torch.zeros(1, requires_grad=True)
    log_prob = tanh_normal_log_prob(torch.tensor([bound]), mean, torch.zeros(1))
    log_prob.backward()
    assert torch.isfinite(log_prob).all()
    assert torch.isfinite(mean.grad).all()
    inside = tanh_normal_log_prob(torch.tensor([bound * ACTION_BOUND]), torch.zeros(1), torch.zeros(1))
    torch.testing.assert_close(log_prob.detach(), inside)
