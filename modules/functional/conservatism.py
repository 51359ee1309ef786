"""Losses of conservative Q-learning, as pure functions of values.

Source: Kumar, Zhou, Tucker & Levine 2020, "Conservative Q-Learning for Offline Reinforcement Learning"
(https://arxiv.org/abs/2006.04779), Eq. 4 (CQL(H)), and appendix F for the estimate by importance sampling.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def uniform_actions(noise: Tensor) -> Tensor:
    """Standard normal draws to draws from the uniform distribution on [-1, 1], elementwise."""
    return 2.0 * torch.special.ndtr(noise) - 1.0


def uniform_log_density(d_action: int) -> float:
    """Log-density of the uniform distribution on `[-1, 1]^A`."""
    return -d_action * math.log(2.0)


def conservative_gap(sampled_value: Tensor, log_density: Tensor, data_value: Tensor) -> Tensor:
    """`logsumexp_a Q(s, a) - Q(s, a_data)`, the first by `N` sampled actions, each weighed by one over its density.

    The constant `-log N` of the mean over samples is left out, as in the official code: it has no gradient.

    Args:
        sampled_value: `[..., N, B]` critic at sampled actions.
        log_density: `[..., N, B]` log-density that each action was drawn with.
        data_value: `[..., B]` critic at the data's actions.

    Returns:
        `[..., B]`, not reduced.
    """
    return torch.logsumexp(sampled_value - log_density, dim=-2) - data_value


def multiplier_loss(log_multiplier: Tensor, slack: Tensor) -> Tensor:
    """`exp(log_multiplier) * slack`, elementwise: descended, the multiplier of a violated constraint (slack < 0) grows.

    Args:
        log_multiplier: `[M]`.
        slack: `[M]` how far a constraint is from being violated; no gradient passes through it.
    """
    return log_multiplier.exp() * slack.detach()
