"""LaProp and the clip of gradients by weights, number by number."""

from __future__ import annotations

import math

import pytest
import torch

from modules.functional.laprop_steps import Moments, clip_to_weight, laprop_direction


@pytest.mark.parametrize(
    ("gradient", "weight", "expected"),
    [
        ([3.0, 4.0], [0.0, 10.0], [1.8, 2.4]),  # a norm of 5, cut to 0.3 of 10
        ([0.3, 0.4], [6.0, 8.0], [0.3, 0.4]),
        ([0.3, 0.4], [0.0, 0.0], [0.00018, 0.00024]),  # zeros count as 0.001
        ([0.0, 0.0], [0.0, 0.0], [0.0, 0.0]),
    ],
)
def test_a_gradient_is_cut_to_a_share_of_its_weight(
    gradient: list[float], weight: list[float], expected: list[float]
) -> None:
    found = clip_to_weight(torch.tensor(gradient), torch.tensor(weight), clip=0.3, least_norm=1e-3)
    torch.testing.assert_close(found, torch.tensor(expected))


def test_steps_are_those_of_the_paper() -> None:
    gradients = [[3.0, -0.1], [0.5, 0.0], [-2.0, 4.0]]
    moments = Moments(torch.zeros(2), torch.zeros(2), 0)
    square, mean = [0.0, 0.0], [0.0, 0.0]
    for step, gradient in enumerate(gradients, start=1):
        found, moments = laprop_direction(torch.tensor(gradient), moments, (0.9, 0.99), eps=0.01)
        for i, g in enumerate(gradient):
            square[i] = 0.99 * square[i] + 0.01 * g * g
            mean[i] = 0.9 * mean[i] + 0.1 * g / (math.sqrt(square[i] / (1 - 0.99**step)) + 0.01)
        torch.testing.assert_close(found, torch.tensor(mean) / (1 - 0.9**step))
    assert moments.steps == 3


def test_a_gradient_counts_by_the_scale_of_its_own_time() -> None:
    moments = Moments(torch.zeros(1), torch.zeros(1), 0)
    for _ in range(3):
        found, moments = laprop_direction(torch.tensor([1e-6]), moments, (0.9, 0.99), eps=1e-20)
    assert found.item() == pytest.approx(1.0)
    found, _ = laprop_direction(torch.tensor([1e3]), moments, (0.9, 0.99), eps=1e-20)
    # Adam would forget the three steps before: they are small beside the fourth.
    ratio = 1.0 / math.sqrt(0.01 / (1 - 0.99**4))
    assert found.item() == pytest.approx((0.1 * ratio + 0.9 * (1 - 0.9**3)) / (1 - 0.9**4), rel=1e-4)
