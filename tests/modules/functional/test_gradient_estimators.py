"""Estimators against the inverse distribution function, closed gradients and the exact gradient of an expectation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from benchmarks.estimator_table import (
    GradientError,
    exact_gradient,
    gradient_error,
    pathwise_gradients,
    reinforce_gradients,
)
from modules.functional.gradient_estimators import (
    ESTIMATORS,
    find_estimator,
    gumbel_softmax,
    one_hot,
    reinforce,
    straight_through,
)

P = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
LOGITS = P.log() + 3.0
LARGEST = 1.0 - 2.0**-24  # that `torch.rand` returns


def draws() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# ---------------------------------------------------------------------------------------------------- straight-through
@pytest.mark.parametrize(
    ("noise", "index"), [(0.0, 0), (0.199, 0), (0.201, 1), (0.699, 1), (0.701, 2), (0.9999, 2), (LARGEST, 2)]
)
def test_straight_through_is_the_inverse_of_the_cumulative_distribution(noise: float, index: int) -> None:
    sample = straight_through(LOGITS, torch.tensor(noise, dtype=torch.float64))
    assert sample.tolist() == [float(i == index) for i in range(3)]


def test_straight_through_draws_as_often_as_the_probabilities_say() -> None:
    noise = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    assert straight_through(LOGITS.expand(1000, 3), noise).sum(0).tolist() == [200, 500, 300]


def test_straight_through_has_the_gradient_of_the_probabilities() -> None:
    logits = LOGITS.clone().requires_grad_()
    weight = torch.tensor([1.0, -2.0, 4.0], dtype=torch.float64)
    (straight_through(logits, torch.tensor(0.4)) @ weight).backward()
    torch.testing.assert_close(logits.grad, P * (weight - P @ weight))


def test_impossible_classes_are_never_drawn_and_samples_are_one_hot_everywhere() -> None:
    logits = torch.full((4, 32), -200.0)
    logits[torch.arange(4), torch.tensor([0, 1, 30, 31])] = 0.0
    for noise in (0.0, 0.5, LARGEST):
        sample = straight_through(logits, torch.full((4,), noise))
        assert sample.argmax(-1).tolist() == [0, 1, 30, 31]
    wild = 30 * torch.randn(5000, 32, generator=draws())
    sample = straight_through(wild, torch.rand(5000, generator=draws()))
    assert torch.equal(sample.sum(-1), torch.ones(5000))
    assert torch.equal(sample.amax(-1), torch.ones(5000))


def test_an_impossible_last_class_is_never_drawn_however_the_probabilities_are_rounded() -> None:
    logits = torch.randn(2000, 8, generator=draws())
    logits[:, -1] = -torch.inf
    total = logits.softmax(-1).cumsum(-1)[:, -1]
    assert total.min() < 1.0 < total.max()
    assert not straight_through(logits, torch.full((2000,), LARGEST))[:, -1].any()


def test_one_hot_vectors_have_the_type_and_the_device_of_the_other_tensor() -> None:
    assert one_hot(torch.tensor([2, 0]), torch.zeros(3, dtype=torch.float16)).dtype == torch.float16
    elsewhere = torch.zeros(5, 3, device="meta")
    assert one_hot(elsewhere.argmax(-1), elsewhere).device == elsewhere.device


# ------------------------------------------------------------------------------------------------------ Gumbel-softmax
def test_gumbel_softmax_is_its_definition() -> None:
    noise = torch.tensor([0.1, 0.6, 0.9], dtype=torch.float64)
    scores = [
        math.exp((x - math.log(-math.log(u))) / 0.7) for x, u in zip(LOGITS.tolist(), noise.tolist(), strict=True)
    ]
    expected = torch.tensor([s / sum(scores) for s in scores], dtype=torch.float64)
    torch.testing.assert_close(gumbel_softmax(LOGITS, noise, 0.7), expected)
    assert gumbel_softmax(LOGITS, noise, 0.7, hard=True).tolist() == [0.0, 0.0, 1.0]


def test_hard_gumbel_samples_have_the_gradient_of_the_relaxed_ones() -> None:
    noise, weight = torch.rand(10, 3, generator=draws()), torch.tensor([1.0, -2.0, 4.0])
    gradients = []
    for hard in (False, True):
        logits = torch.randn(10, 3, generator=draws()).requires_grad_()
        (gumbel_softmax(logits, noise, torch.tensor(0.5), hard) @ weight).sum().backward()
        gradients.append(logits.grad)
    assert torch.equal(*gradients)
    assert gradients[0].abs().min() > 0


def test_gumbel_samples_follow_the_probabilities() -> None:
    noise = torch.rand(20_000, 3, generator=draws())
    shares = gumbel_softmax(LOGITS.float().expand(20_000, 3), noise, 1.0, hard=True).mean(0)
    assert torch.all((shares - P).abs() < 4 * (P * (1 - P) / 20_000).sqrt())


@pytest.mark.parametrize("noise", [0.0, LARGEST])
def test_noise_at_its_bounds_gives_finite_samples_and_gradients(noise: float) -> None:
    for estimator in ESTIMATORS.values():
        logits = torch.zeros(2, 3, requires_grad=True)
        sample = estimator.sample(logits, torch.full((2, *estimator.noise_shape(3)), noise), 0.1)
        (sample * torch.arange(3.0)).sum().backward()
        assert torch.isfinite(sample).all()
        assert torch.isfinite(logits.grad).all()


# ----------------------------------------------------------------------------------------------------------- REINFORCE
def test_reinforce_is_a_weighted_log_probability() -> None:
    log_prob = torch.tensor([-1.0, -2.0], requires_grad=True)
    objective = torch.tensor([3.0, 5.0], requires_grad=True)
    loss = reinforce(log_prob, objective, torch.tensor([1.0, 6.0]))
    assert loss.tolist() == [2.0, -2.0]
    loss.sum().backward()
    assert log_prob.grad.tolist() == [-2.0, 1.0]
    assert objective.grad is None
    assert reinforce(log_prob, objective).tolist() == [3.0, 10.0]


# --------------------------------------------------------------------------------------------------- bias and variance
VALUES = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)


def linear(sample: Tensor) -> Tensor:
    return sample @ VALUES


def curved(sample: Tensor) -> Tensor:
    return (sample @ VALUES).square() + (sample @ VALUES).exp()


def pathwise(name: str, temperature: float = 1.0, objective=curved) -> GradientError:
    gradients = pathwise_gradients(objective, LOGITS, name, temperature, 20_000, draws())
    return gradient_error(gradients, exact_gradient(objective, LOGITS))


def test_exact_gradient_in_closed_form() -> None:
    values = VALUES.square() + VALUES.exp()
    torch.testing.assert_close(exact_gradient(curved, LOGITS), P * (values - P @ values))


def test_exact_gradient_stays_on_the_device_of_the_logits() -> None:
    logits = torch.zeros(3, device="meta")

    def there(sample: Tensor) -> Tensor:
        assert sample.device == logits.device
        return sample.sum(-1)

    assert exact_gradient(there, logits).shape == (3,)


def test_estimates_are_those_of_the_classes_that_the_generator_draws() -> None:
    noise = torch.rand(50, generator=draws(), dtype=torch.float64)
    drawn = torch.bucketize(noise, torch.tensor([0.2, 0.7], dtype=torch.float64))
    value = curved(torch.eye(3, dtype=torch.float64))[drawn].unsqueeze(-1)
    expected = (value - 0.5) * (torch.eye(3, dtype=torch.float64)[drawn] - P)
    torch.testing.assert_close(reinforce_gradients(curved, LOGITS, 0.5, 50, draws()), expected)
    slope = 2.0 * VALUES[drawn] + VALUES[drawn].exp()
    expected = slope.unsqueeze(-1) * P * (VALUES - P @ VALUES)
    torch.testing.assert_close(pathwise_gradients(curved, LOGITS, "straight_through", 1.0, 50, draws()), expected)


def test_the_error_of_known_estimates() -> None:
    error = gradient_error(torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 0.0], [7.0, 4.0]]), torch.tensor([1.0, -3.0]))
    assert error.bias.item() == pytest.approx(5.0)
    assert error.variance.item() == pytest.approx(20 / 3 + 4)
    assert error.standard_error.item() == pytest.approx(math.sqrt((20 / 3 + 4) / 4))


def test_reinforce_is_unbiased_and_a_baseline_lowers_its_variance() -> None:
    exact, mean = exact_gradient(curved, LOGITS), (P @ curved(torch.eye(3, dtype=torch.float64))).item()
    plain, baselined = (
        gradient_error(reinforce_gradients(curved, LOGITS, baseline, 20_000, draws()), exact)
        for baseline in (0.0, mean)
    )
    for error in (plain, baselined):
        assert error.bias < 3 * error.standard_error < exact.norm() / 10
    assert baselined.variance < 0.6 * plain.variance


def test_straight_through_is_exact_for_linear_objectives_and_biased_for_others() -> None:
    error = pathwise("straight_through", objective=linear)
    assert error.bias < 1e-12
    assert error.variance < 1e-24
    error = pathwise("straight_through")
    assert error.bias > 20 * error.standard_error


def test_a_lower_temperature_trades_bias_for_variance() -> None:
    hot, warm, cold = (pathwise("gumbel_softmax", temperature) for temperature in (3.0, 1.0, 0.2))
    assert hot.bias > 1.5 * warm.bias > 2 * cold.bias
    assert hot.variance < warm.variance < cold.variance
    assert warm.bias > 10 * warm.standard_error


def test_hard_gumbel_samples_are_biased() -> None:
    error = pathwise("straight_through_gumbel")
    assert error.bias > 10 * error.standard_error


def test_an_unknown_estimator_is_named() -> None:
    with pytest.raises(ValueError, match=r"no gradient estimator 'straight'; known: straight_through, gumbel_softmax"):
        find_estimator("straight")
