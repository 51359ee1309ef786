"""Errors on held-out rows, by numbers worked out by hand."""

from __future__ import annotations

import math

import torch

from modules.functional.held_out import actor_critic_errors


def test_errors_of_two_critics_and_two_members_on_two_rows() -> None:
    value = torch.tensor([[[1.0, 2.0], [0.0, 0.0]], [[3.0, 4.0], [0.0, 2.0]]])
    target = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    policy_value = value + torch.tensor([1.0, 3.0]).view(1, 2, 1)
    action = torch.zeros(2, 2, 3)
    action[1] = 0.25
    mean = torch.zeros(2, 2, 3)
    mean[1] = math.atanh(0.5)
    log_std = torch.zeros(2, 2, 3)
    log_std[0, 1] = 1.0
    found = actor_critic_errors(value, target, policy_value, action, mean, log_std)
    assert list(found) == ["td_error", "pessimism", "negative_log_likelihood", "action_error"]
    # Squares 0, 4, 4, 16 of the first member and 1, 1, 1, 1 of the second.
    torch.testing.assert_close(found["td_error"], torch.tensor([6.0, 1.0]))
    torch.testing.assert_close(found["pessimism"], torch.tensor([1.0, 3.0]))
    # A normal density in three dimensions, over the slope of tanh: 1 at 0, and 1 - 1/16 at 0.25.
    flat = 1.5 * math.log(2.0 * math.pi)
    away = flat + 1.5 * (math.atanh(0.5) - math.atanh(0.25)) ** 2 + 3.0 * math.log(1.0 - 0.25**2)
    torch.testing.assert_close(found["negative_log_likelihood"], torch.tensor([flat + 1.5, away]))
    torch.testing.assert_close(found["action_error"], torch.tensor([0.0, 0.1875]))
