"""Known answers for target smoothing and for the two terms of the policy's loss."""

from __future__ import annotations

import pytest
import torch

from modules.functional.deterministic_policy import action_distance, smoothed_action, value_weight


def test_noise_is_scaled_then_clipped_and_actions_stay_in_their_bounds() -> None:
    action = torch.tensor([[0.0, 0.25, 0.75, -0.75, 0.0, 0.0]])
    noise = torch.tensor([[1.0, -1.0, 2.0, -4.0, 5.0, -5.0]])
    expected = torch.tensor([[0.25, 0.0, 1.0, -1.0, 0.75, -0.75]])
    torch.testing.assert_close(smoothed_action(action, noise, 0.25, 0.75), expected)
    assert torch.equal(smoothed_action(action, noise, 0.0, 0.75), action)


def test_values_weigh_by_their_size_alone() -> None:
    size = torch.tensor([0.5, 5.0], requires_grad=True)
    weight = value_weight(torch.tensor([2.5, 10.0]), size)
    torch.testing.assert_close(weight, torch.tensor([5.0, 2.0]))
    assert not weight.requires_grad


def test_values_of_no_size_weigh_finitely() -> None:
    weight = value_weight(torch.tensor([2.0, 2.0]), torch.tensor([0.0, 1e-9]))
    torch.testing.assert_close(weight, torch.tensor([2e8, 2e8]))


def test_distance_is_a_mean_of_squares_over_dimensions() -> None:
    action = torch.tensor([[[1.0, -1.0], [0.5, 0.0], [0.0, 0.0]]])  # one member, three rows
    distance = action_distance(action, torch.tensor([[[0.0, 1.0], [0.5, 0.5], [0.0, 0.0]]]))
    assert distance.shape == (1, 3)
    assert distance[0].tolist() == pytest.approx([2.5, 0.125, 0.0])
