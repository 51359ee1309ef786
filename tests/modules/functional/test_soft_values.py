"""Soft values, temperatures and floors against plain loops and numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from modules.functional.soft_values import entropy_bonus, share_of_largest_entropy, temperature_loss


def test_the_bonus_is_that_of_a_plain_loop_over_critics_members_and_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    log_prob, temperature = torch.randn(2, 3, 4, generator=generator), torch.tensor([0.5, 0.0, 2.0])
    found = entropy_bonus(log_prob, temperature)
    for c in range(2):
        for m in range(3):
            for b in range(4):
                expected = -float(temperature[m]) * float(log_prob[c, m, b])
                assert float(found[c, m, b]) == pytest.approx(expected)


def test_with_the_expected_log_probability_it_is_the_weighted_entropy() -> None:
    """Of a fair choice among four, log 4: the largest bonus that there is."""
    p = torch.full((1, 1, 4), 0.25)
    bonus = entropy_bonus((p * p.log()).sum(-1), torch.tensor([3.0]))
    assert float(bonus) == pytest.approx(3.0 * math.log(4.0))


def test_the_loss_of_a_temperature_has_the_distance_from_the_floor_as_its_gradient() -> None:
    log_temperature = torch.tensor([0.5, -2.0], requires_grad=True)
    entropy = torch.tensor([1.0, 4.0], requires_grad=True)
    loss = temperature_loss(log_temperature, entropy, 3.0)
    assert loss.tolist() == [0.5 * (1.0 - 3.0), -2.0 * (4.0 - 3.0)]
    loss.sum().backward()
    assert log_temperature.grad is not None
    assert log_temperature.grad.tolist() == [-2.0, 1.0]
    assert entropy.grad is None


def test_a_share_of_the_largest_entropy_is_in_nats() -> None:
    assert share_of_largest_entropy(2, 1.0) == pytest.approx(0.6931472)
    assert share_of_largest_entropy(18, 0.98) == pytest.approx(0.98 * math.log(18))
    assert share_of_largest_entropy(1, 0.5) == 0.0
