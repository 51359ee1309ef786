"""Losses of adversarially trained actor-critics, as pure functions of values.

Source: Cheng, Xie, Jiang & Agarwal 2022, "Adversarially Trained Actor Critic for Offline Reinforcement Learning"
(https://arxiv.org/abs/2202.02446). Every function broadcasts over leading axes (critics, members) and reduces nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def normalized_sum(objective: Tensor, regularizer: Tensor, weight: float | Tensor) -> Tensor:
    """`objective + weight * regularizer`, rescaled so that the larger of the two coefficients is 1.

    Equals `objective / weight + regularizer` for `weight > 1` and `objective + weight * regularizer` otherwise: the
    minimiser is the same, and the gradient stays bounded for both very small and very large weights.

    Args:
        objective: `[...]` term with coefficient 1.
        regularizer: `[...]` term with coefficient `weight`.
        weight: non-negative scalar, or a tensor that broadcasts against the terms (one weight per member).
    """
    weight = torch.as_tensor(weight, dtype=objective.dtype, device=objective.device)
    return objective / weight.clamp(min=1.0) + regularizer * weight.clamp(max=1.0)


def relative_pessimism(policy_value: Tensor, data_value: Tensor) -> Tensor:
    """`f(s, pi(s)) - f(s, a)`: minimised, it makes the critic prefer what the data did (paper, Eq. 1).

    Args:
        policy_value: `[..., B]` critic at the policy's action.
        data_value: `[..., B]` critic at the data's action, or at any reference policy's.
    """
    return policy_value - data_value


def bellman_backup(reward: Tensor, discount: Tensor, next_value: Tensor) -> Tensor:
    """`r + discount * v(s')`; the discount is per step and 0 where the episode terminated. All `[..., B]`."""
    return reward + discount * next_value


def dqra_loss(
    value: Tensor,
    next_value: Tensor,
    target: Tensor,
    reward: Tensor,
    discount: Tensor,
    weight: float | Tensor = 0.5,
    clip: Callable[[Tensor], Tensor] = lambda backup: backup,
) -> Tensor:
    """Double-Q residual algorithm loss: `(1 - w) (f - y)^2 + w (f - r - discount f(s', a'))^2` (paper, Eq. 7).

    The first term is temporal-difference learning towards a fixed target, the second the Bellman residual of the same
    critic, whose gradient flows through both places where the critic stands.

    Args:
        value: `[..., B]` critic at `(s, a)`.
        next_value: `[..., B]` the same critic at `(s', a')`, not detached.
        target: `[..., B]` backup from the target critics; no gradient passes through it.
        reward: `[B]` rewards.
        discount: `[B]` discount of the next value, 0 after a terminal state.
        weight: share of the residual term, in [0, 1]; a tensor gives each critic or member its own.
        clip: applied to the residual's backup, such as `clip_straight_through`; the identity in the paper.

    Returns:
        `[..., B]` unreduced loss.
    """
    residual = value - clip(bellman_backup(reward, discount, next_value))
    return with_residual((value - target.detach()).square(), residual.square(), weight)


def with_residual(error: Tensor, residual: Tensor, weight: float | Tensor) -> Tensor:
    """`(1 - w) error + w residual`: a critic's loss with a share of its Bellman residual (paper, Eq. 7).

    Args:
        error: `[...]` loss against targets that no gradient passes through.
        residual: `[...]` the same loss against the backup of the critic's own values, with their gradient.
        weight: share of the residual, in [0, 1]; a tensor gives each critic or member its own.
    """
    return (1.0 - weight) * error + weight * residual
