"""The written-out densities against the distribution objects of torch and scipy."""

import pytest
import torch
from scipy.stats import truncnorm
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from modules.functional.distributions import (
    ACTION_BOUND,
    categorical_sample,
    gauss_hermite,
    tanh_log_jacobian,
    tanh_normal_entropy,
    tanh_normal_log_prob,
    tanh_normal_sample,
    truncated_normal_entropy,
    truncated_normal_log_prob,
    truncated_normal_sample,
    uniform_draws,
)


def test_uniform_draws_are_quantiles_below_one() -> None:
    found = uniform_draws(torch.tensor([-50.0, -1.0, 0.0, 0.674489750196, 50.0]))
    torch.testing.assert_close(found, torch.tensor([0.0, 0.1586552539, 0.5, 0.75, 1.0]))
    assert found[-1] < 1.0
    assert found[-1] == torch.nextafter(torch.tensor(1.0), torch.tensor(0.0))


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


# ------------------------------------------------------------------------------------------------- tanh-normal entropy
@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.1), (0.5, 0.7), (-3.0, 0.3), (5.0, 1.0), (1.0, 3.0)])
def test_entropy_of_the_squashed_normal_agrees_with_integration(mean: float, std: float) -> None:
    x = torch.linspace(mean - 10 * std, mean + 10 * std, 100_001, dtype=torch.float64)
    density = Normal(torch.tensor(mean).double(), std).log_prob(x)
    integrand = -density.exp() * (density - tanh_log_jacobian(x))
    nodes, weights = gauss_hermite(32)
    found = tanh_normal_entropy(torch.tensor([mean]), torch.tensor([std]).log(), nodes, weights)
    assert found.item() == pytest.approx(torch.trapezoid(integrand, x).item(), abs=0.01)


def test_entropy_of_many_squashed_normals_is_that_of_each() -> None:
    mean = torch.tensor([[0.0, 0.5, -3.0], [5.0, 1.0, 0.2]])
    log_std = torch.tensor([[-2.0, -0.4, -1.2], [0.0, 1.0, 0.3]])
    nodes, weights = gauss_hermite(32)
    found = tanh_normal_entropy(mean, log_std, nodes, weights)
    pairs = zip(mean.flatten(), log_std.flatten(), strict=True)
    each = torch.stack([tanh_normal_entropy(m, s, nodes, weights) for m, s in pairs])
    torch.testing.assert_close(found, each.view(2, 3))


# ---------------------------------------------------------------------------------------------------- truncated normal
MEANS = [-1.0, -0.95, -0.3, 0.0, 0.4, 0.999, 1.0]
STDS = [0.1, 0.35, 1.1, 2.1]
GRID = [(mean, std) for mean in MEANS for std in STDS]


def scipy_truncated(mean: float, std: float):
    return truncnorm((-1.0 - mean) / std, (1.0 - mean) / std, mean, std)


@pytest.mark.parametrize(("mean", "std"), GRID)
def test_truncated_normal_agrees_with_scipy_in_float32(mean: float, std: float) -> None:
    reference = scipy_truncated(mean, std)
    m, s = torch.tensor(mean), torch.tensor(std)
    x = torch.linspace(-1, 1, 41)
    expected = torch.as_tensor(reference.logpdf(x.double().numpy())).float()
    torch.testing.assert_close(truncated_normal_log_prob(x, m, s), expected, rtol=1e-5, atol=1e-5)
    assert truncated_normal_entropy(m, s).item() == pytest.approx(reference.entropy(), abs=2e-5)
    noise = torch.cat([torch.tensor([1e-7, 1e-5, 1 - 1e-5, 1 - 2**-24]), torch.linspace(0.001, 0.999, 101)])
    quantiles = torch.as_tensor(reference.ppf(noise.double().numpy())).float().clamp(-ACTION_BOUND, ACTION_BOUND)
    torch.testing.assert_close(truncated_normal_sample(m, s, noise), quantiles, rtol=1e-4, atol=1e-4 * std)


@pytest.mark.parametrize(("mean", "std"), [(m, s) for m, s in GRID if abs(m) < 0.99])
def test_gradient_of_truncated_samples_is_the_slope_of_the_quantile(mean: float, std: float) -> None:
    noise = torch.linspace(0.01, 0.99, 21, dtype=torch.float64)
    m = torch.full((21,), mean, dtype=torch.float64, requires_grad=True)
    s = torch.full((21,), std, dtype=torch.float64, requires_grad=True)
    truncated_normal_sample(m, s, noise).sum().backward()
    step, u = 1e-4, noise.numpy()  # scipy's quantiles are good to about 1e-9
    by_mean = (scipy_truncated(mean + step, std).ppf(u) - scipy_truncated(mean - step, std).ppf(u)) / (2 * step)
    by_std = (scipy_truncated(mean, std + step).ppf(u) - scipy_truncated(mean, std - step).ppf(u)) / (2 * step)
    torch.testing.assert_close(m.grad, torch.as_tensor(by_mean), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(s.grad, torch.as_tensor(by_std), rtol=1e-4, atol=1e-4)


def test_truncated_normal_is_finite_at_its_extremes() -> None:
    edge = torch.cartesian_prod(
        torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([0.1, 2.1]), torch.tensor([0.0, 0.5, 1 - 2**-24])
    )
    mean, std, noise = (x.clone() for x in edge.unbind(-1))
    mean.requires_grad_()
    std.requires_grad_()
    x = truncated_normal_sample(mean, std, noise)
    assert (x.abs() < 1.0).all()
    for value in (x, truncated_normal_log_prob(x.detach(), mean, std), truncated_normal_entropy(mean, std)):
        gradients = torch.autograd.grad(value.sum(), (mean, std))
        assert value.isfinite().all()
        assert all(g.isfinite().all() for g in gradients)


def test_gradients_of_truncated_density_and_entropy_by_differences() -> None:
    x = torch.tensor([-0.9, 0.1, 0.7], dtype=torch.float64)
    mean = torch.tensor([-0.8, 0.0, 0.9], dtype=torch.float64, requires_grad=True)
    std = torch.tensor([0.2, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m, s: truncated_normal_log_prob(x, m, s), (mean, std))
    assert torch.autograd.gradcheck(truncated_normal_entropy, (mean, std))


# --------------------------------------------------------------------------------------------------------- categoricals
def test_a_class_is_the_largest_of_log_probabilities_plus_gumbel_noise_made_of_normal_draws() -> None:
    noise = torch.tensor([[0.0, 1.0, -1.0], [-5.5, 5.5, 0.0]])
    gumbel = -(-Normal(0.0, 1.0).cdf(noise.double()).log()).log()
    for probabilities in ([0.7, 0.2, 0.1], [0.05, 0.05, 0.9]):
        log_prob = torch.tensor(probabilities).log()
        drawn = categorical_sample(log_prob.expand(2, 3), noise)
        assert drawn.tolist() == (log_prob + gumbel).argmax(-1).tolist()
    assert categorical_sample(torch.log(torch.tensor([1.0, 0.0])), torch.tensor([-5.5, 5.5])).item() == 0
