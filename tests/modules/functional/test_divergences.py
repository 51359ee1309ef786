"""Divergences and entropies against known numbers and torch's own; the balanced loss and its gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from modules.functional.divergences import (
    balanced_kl,
    categorical_entropy,
    categorical_kl,
    gaussian_entropy,
    gaussian_kl,
    mix_uniform,
)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def test_known_divergences() -> None:
    p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    assert categorical_kl(p, q).item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    two_groups = categorical_kl(torch.cat([p, q]) + 5.0, torch.cat([q, q]) - 7.0)
    assert two_groups.item() == pytest.approx(0.1438410)
    one, two = torch.tensor([1.0]), torch.tensor([2.0])
    assert gaussian_kl(one, one, 0 * one, two).item() == pytest.approx(math.log(2) + 2 / 8 - 0.5)
    assert categorical_entropy(torch.zeros(3, 5)).item() == pytest.approx(3 * math.log(5))
    assert gaussian_entropy(torch.ones(2)).item() == pytest.approx(math.log(2 * math.pi * math.e))


def test_they_agree_with_torch() -> None:
    p, q = 3 * normal(7, 4, 6), normal(7, 4, 6).flip(0)
    kl = kl_divergence(Categorical(logits=p), Categorical(logits=q)).sum(-1)
    torch.testing.assert_close(categorical_kl(p, q), kl)
    torch.testing.assert_close(categorical_entropy(p), Categorical(logits=p).entropy().sum(-1))
    mean, std = normal(7, 3), normal(7, 3).exp()
    one, two = (Independent(Normal(m, s), 1) for m, s in ((mean, std), (mean.flip(0), std.flip(0))))
    torch.testing.assert_close(gaussian_kl(mean, std, mean.flip(0), std.flip(0)), kl_divergence(one, two))
    torch.testing.assert_close(gaussian_entropy(std), one.entropy())


def test_confident_categoricals_stay_finite() -> None:
    p, q = torch.tensor([[200.0, 0.0]]).requires_grad_(), torch.tensor([[0.0, 200.0]]).requires_grad_()
    kl = categorical_kl(p, q)
    assert kl.item() == pytest.approx(200.0)
    gradients = torch.autograd.grad(kl + categorical_entropy(p), [p, q])
    assert all(torch.isfinite(g).all() for g in gradients)


def test_mixing_with_the_uniform_distribution() -> None:
    logits = torch.tensor([3.0, -100.0, 0.5, 0.5], dtype=torch.float64)
    expected = 0.9 * logits.softmax(-1) + 0.025
    torch.testing.assert_close(mix_uniform(logits, 0.1).exp(), expected)
    assert mix_uniform(logits, 0.0) is logits


TERMS = torch.tensor([[0.5, 1.5], [3.0, 1.0]])  # mean 1.5


def gradients(**arguments: object) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Loss, and gradients for the dynamic and the representation term."""
    dynamic, representation = TERMS.clone().requires_grad_(), TERMS.clone().requires_grad_()
    loss = balanced_kl(dynamic, representation, **arguments)
    loss.backward()
    return loss.item(), dynamic.grad, representation.grad


def test_the_gradient_is_split() -> None:
    loss, dynamic, representation = gradients()
    assert loss == pytest.approx(1.5)
    torch.testing.assert_close(dynamic, torch.full((2, 2), 0.8 / 4))
    torch.testing.assert_close(representation, torch.full((2, 2), 0.2 / 4))
    loss, dynamic, representation = gradients(alpha=torch.tensor(0.25))
    assert loss == pytest.approx(1.5)
    torch.testing.assert_close(dynamic, torch.full((2, 2), 0.25 / 4))
    torch.testing.assert_close(representation, torch.full((2, 2), 0.75 / 4))


@pytest.mark.parametrize("free", [1.5, 2.0, torch.tensor(2.0)])
def test_free_nats_of_the_mean_stop_both_gradients_at_once(free: float | torch.Tensor) -> None:
    loss, dynamic, representation = gradients(free_nats=free)
    assert loss == pytest.approx(float(free))
    assert not dynamic.any()
    assert not representation.any()
    assert gradients(free_nats=1.4)[0] == pytest.approx(1.5)
    assert gradients(free_nats=1.4)[1].min() == pytest.approx(0.2)


def test_free_nats_per_step_stop_the_gradients_of_some_steps() -> None:
    loss, dynamic, representation = gradients(free_nats=torch.tensor(1.0), per_step=True)
    assert loss == pytest.approx((1.0 + 1.5 + 3.0 + 1.0) / 4)
    torch.testing.assert_close(dynamic, torch.tensor([[0.0, 0.2], [0.2, 0.0]]))
    torch.testing.assert_close(representation, torch.tensor([[0.0, 0.05], [0.05, 0.0]]))


def test_small_terms_count_whole_unless_nats_are_free() -> None:
    assert balanced_kl(torch.tensor([0.25]), torch.tensor([0.5]), 0.5).item() == 0.375
