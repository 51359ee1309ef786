"""Gradients of a policy of numbered actions on a small bandit: exact, without bias, and with a bias that is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from modules.agent.action_kinds import ActionKind, DrawnNumbers, NumberedActions, expected_value
from modules.functional.gradient_estimators import find_estimator
from modules.functional.soft_values import entropy_bonus

DRAWS = 40_000
LOGITS = torch.tensor([0.3, -0.5, 1.1], dtype=torch.float64)
VALUES = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
TEMPERATURE = 0.7


def drawn(name: str, actions: int, temperature: float = 1.0) -> DrawnNumbers:
    return DrawnNumbers(actions, find_estimator(name), temperature)


def gradients(kind: ActionKind, logits: Tensor, values: Tensor, temperature: float, count: int = DRAWS) -> Tensor:
    """`[count, n]` gradients of soft values, one for each draw."""
    copies = logits.expand(1, count, -1).clone().requires_grad_()
    noise = torch.randn(1, count, kind.d_noise, generator=torch.Generator().manual_seed(0), dtype=logits.dtype)
    action, log_prob = kind.play(noise, copies.log_softmax(-1))
    bonus = entropy_bonus(log_prob.squeeze(-1), torch.tensor([temperature], dtype=logits.dtype))
    (found,) = torch.autograd.grad((expected_value(values, action) + bonus).sum(), copies)
    return found[0]


def enumerated(logits: Tensor, values: Tensor, temperature: float) -> Tensor:
    """The gradient of `sum_a p(a) (q(a) - temperature log p(a))`, action by action."""
    p = logits.softmax(-1)
    soft = [float(values[a]) - temperature * math.log(float(p[a])) for a in range(len(p))]
    mean = sum(float(p[a]) * soft[a] for a in range(len(p)))
    return torch.tensor([float(p[a]) * (soft[a] - mean) for a in range(len(p))], dtype=logits.dtype)


def distance(found: Tensor, expected: Tensor) -> float:
    """Of the mean, in its standard errors, for the entry that is farthest."""
    return float(((found.mean(0) - expected).abs() / (found.std(0) / math.sqrt(len(found)))).max())


def test_the_expectation_is_the_enumerated_gradient() -> None:
    found = gradients(NumberedActions(3), LOGITS, VALUES, TEMPERATURE, 1)[0]
    torch.testing.assert_close(found, enumerated(LOGITS, VALUES, TEMPERATURE), rtol=1e-12, atol=0)


def test_straight_through_has_no_bias_and_noise_of_the_entropy_alone() -> None:
    """Critics are linear in what is played, so that the estimator's gradient of their values is exact."""
    found = gradients(drawn("straight_through", 3), LOGITS, VALUES, TEMPERATURE)
    assert distance(found, enumerated(LOGITS, VALUES, TEMPERATURE)) < 4.0
    assert found.std(0).min() > 0.05
    exact = gradients(drawn("straight_through", 3), LOGITS, VALUES, 0.0, 50)
    torch.testing.assert_close(exact, enumerated(LOGITS, VALUES, 0.0).expand(50, 3), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ["gumbel_softmax", "straight_through_gumbel"])
@pytest.mark.parametrize("difference", [0.0, 1.5])
def test_gumbel_samples_of_two_actions_have_the_bias_of_a_logistic_convolution(name: str, difference: float) -> None:
    """At temperature 1 a relaxed sample is the logistic function of the logits' difference plus logistic noise.

    The mean of its derivative is the density of the sum of two logistic numbers, `e^z ((z - 2) e^z + z + 2) /
    (e^z - 1)^3`, 1/6 at 0, where the derivative of the probability is 1/4.
    """
    e = math.exp(difference)
    density = e * ((difference - 2.0) * e + difference + 2.0) / (e - 1.0) ** 3 if difference else 1.0 / 6.0
    logits, values = torch.tensor([difference, 0.0], dtype=torch.float64), torch.tensor([3.0, 1.0]).double()
    found = gradients(drawn(name, 2), logits, values, 0.0)
    assert distance(found, 2.0 * density * torch.tensor([1.0, -1.0]).double()) < 4.0
    assert distance(found, enumerated(logits, values, 0.0)) > 20.0


@pytest.mark.parametrize("name", ["gumbel_softmax", "straight_through_gumbel"])
def test_the_bias_of_gumbel_samples_falls_with_their_temperature_and_the_noise_grows(name: str) -> None:
    exact = enumerated(LOGITS, VALUES, 0.0)
    hot, cold = (gradients(drawn(name, 3, temperature), LOGITS, VALUES, 0.0) for temperature in (1.0, 0.2))
    assert (cold.mean(0) - exact).norm() < 0.2 * (hot.mean(0) - exact).norm()
    assert cold.var(0).sum() > 2.0 * hot.var(0).sum()


@pytest.mark.parametrize("name", ["straight_through", "straight_through_gumbel"])
def test_what_is_drawn_follows_the_probabilities(name: str) -> None:
    kind = drawn(name, 3)
    noise = torch.randn(1, DRAWS, kind.d_noise, generator=torch.Generator().manual_seed(1))
    sample, log_prob = kind.play(noise, LOGITS.float().log_softmax(-1).expand(1, DRAWS, 3))
    shares, p = sample[0].mean(0), LOGITS.softmax(-1).float()
    assert torch.all((shares - p).abs() < 4 * (p * (1 - p) / DRAWS).sqrt())
    torch.testing.assert_close(log_prob[0, :, 0], p.log()[sample[0].argmax(-1)])


def test_noise_far_in_the_tails_gives_finite_samples_and_gradients() -> None:
    for name in ("straight_through", "gumbel_softmax", "straight_through_gumbel"):
        kind = drawn(name, 3, 0.1)
        logits = torch.zeros(1, 2, 3, requires_grad=True)
        noise = torch.tensor([-40.0, 40.0]).view(1, 2, 1).expand(1, 2, kind.d_noise)
        sample, log_prob = kind.play(noise, logits.log_softmax(-1))
        (gradient,) = torch.autograd.grad((expected_value(torch.arange(3.0), sample) + log_prob[..., 0]).sum(), logits)
        assert torch.isfinite(sample).all()
        assert torch.isfinite(gradient).all()
