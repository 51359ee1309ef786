"""Heads that predict one number: their means and losses against known numbers."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch.distributions import Bernoulli, Normal

from modules.functional.transforms import symlog, to_two_hot
from modules.networks.blocks import DenseStack
from modules.networks.value_heads import BernoulliHead, NormalHead, TwoHotHead

TRUNK = functools.partial(DenseStack, layers=2)
FEATURES = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("make", [NormalHead, BernoulliHead, TwoHotHead])
def test_shapes_types_and_gradients(make) -> None:
    head = make(5, 8, TRUNK)
    with torch.autocast("cpu", torch.bfloat16):
        prediction = head(FEATURES)
    assert prediction.dtype == torch.float32
    assert head.mean(prediction).shape == (4, 3)
    loss = head.loss(head(FEATURES), torch.rand(4, 3))
    assert loss.shape == (4, 3)
    loss.sum().backward()
    assert head.output.weight.grad.any()


def test_normal_loss_is_torchs_without_the_constant() -> None:
    head, target = NormalHead(5, 8, TRUNK), torch.randn(4, 3)
    prediction = head(FEATURES)
    constant = 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(head.loss(prediction, target), -Normal(prediction, 1.0).log_prob(target) - constant)
    assert torch.equal(head.mean(prediction), prediction)


def test_bernoulli_loss_is_torchs_and_is_least_at_soft_targets() -> None:
    head = BernoulliHead(5, 8, TRUNK)
    prediction, hard = head(FEATURES), torch.randint(2, (4, 3)).float()
    torch.testing.assert_close(head.loss(prediction, hard), -Bernoulli(logits=prediction).log_prob(hard))
    logit = torch.logit(torch.tensor(0.99)).requires_grad_()
    (gradient,) = torch.autograd.grad(head.loss(logit, torch.tensor(0.99)), logit)
    assert abs(gradient.item()) < 1e-6
    assert head.mean(logit).item() == pytest.approx(0.99)


def test_two_hot_starts_at_zero_with_equal_classes() -> None:
    head = TwoHotHead(5, 8, TRUNK)
    prediction = head(FEATURES)
    assert prediction.shape == (4, 3, 255)
    torch.testing.assert_close(head.mean(prediction), torch.zeros(4, 3), rtol=0, atol=1e-12)
    torch.testing.assert_close(head.loss(prediction, torch.ones(4, 3)), torch.full((4, 3), math.log(255)))


def test_two_hot_mean_of_the_targets_own_weights_is_the_target() -> None:
    head = TwoHotHead(5, 8, TRUNK)
    target = torch.tensor([-1e5, -3.3, 0.0, 0.01, 42.0, 1e6])
    weights = to_two_hot(symlog(target), head.bins)
    torch.testing.assert_close(head.mean(torch.log(weights + 1e-30)), target, rtol=1e-4, atol=1e-6)
    logits = torch.log(weights + 1e-30).requires_grad_()
    (gradient,) = torch.autograd.grad(head.loss(logits, target).sum(), logits)
    torch.testing.assert_close(gradient, torch.zeros(6, 255), rtol=0, atol=1e-5)  # nothing is left to learn
    best = -(weights * torch.log(weights.clamp(min=1e-30))).sum(-1)
    torch.testing.assert_close(head.loss(logits, target), best, rtol=1e-3, atol=1e-4)


def test_two_hot_gradient_does_not_grow_with_the_target() -> None:
    head = TwoHotHead(5, 8, TRUNK)
    logits = torch.zeros(255, requires_grad=True)
    norms = [torch.autograd.grad(head.loss(logits, torch.tensor(x)), logits)[0].norm() for x in (1.0, 1e3, 1e6)]
    assert max(norms) < 1.01


@pytest.mark.parametrize(("arguments"), [{"bins": 1}, {"low": 3.0, "high": 3.0}])
def test_mistakes_are_named(arguments) -> None:
    with pytest.raises(ValueError, match="2 bins or more from low to high"):
        TwoHotHead(5, 8, TRUNK, **arguments)
