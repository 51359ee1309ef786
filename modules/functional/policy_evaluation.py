"""Values of a fixed policy from recorded data: their range, their scale, and which of several estimates to trust."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def value_range(reward: Tensor, discount: float) -> tuple[float, float]:
    """The smallest and the largest value that rewards of this size can have; infinite without a discount.

    An episode may end after one step or never, so that a lowest reward above 0 bounds as it is.

    Args:
        reward: `[N]` rewards, at least one.
        discount: discount factor gamma per step.
    """
    low, high = float(reward.min()), float(reward.max())
    if discount >= 1.0:
        return -math.inf, math.inf
    return min(low, low / (1.0 - discount)), max(high, high / (1.0 - discount))


def discounted_returns(reward: Tensor, length: Tensor, discount: float) -> Tensor:
    """`[N]` discounted sum of the rewards from each step to the end of its episode.

    Args:
        reward: `[N]` rewards of `E` episodes, one behind the other.
        length: `[E]` int64 steps of each episode, which sum to `N`.
        discount: discount factor gamma per step.
    """
    first, returns = length.cumsum(0) - length, torch.empty_like(reward)
    carry = torch.zeros(len(length), dtype=reward.dtype, device=reward.device)
    for t in range(int(length.max()) - 1, -1, -1):
        lasting = length > t
        row = first[lasting] + t
        carry[lasting] = reward[row] + discount * carry[lasting]
        returns[row] = carry[lasting]
    return returns


def lstd_losses(value: Tensor, next_value: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
    """How far every candidate is from solving least-squares temporal differences in its worst pair, `[C]`.

    Source: Liu et al. 2025, "Model Selection for Off-policy Evaluation: New Algorithms and Experimental Protocol"
    (https://arxiv.org/abs/2502.08021), LSTD-Tournament. If one of two candidates is the true value function, it is
    linear in the features `phi_ij = [q_i, q_j]`, and so it solves `A theta = b` with
    `A = E[phi (phi - discount phi')^T]`, `b = E[phi r]`. For `theta` that stands for `q_i`, this says

        loss_i = max_j || A_ij theta_i - b_ij ||_inf = max_j || E[phi_ij (q_i - r - discount q_i')] ||_inf

    The features here are `[q_i / c_i, (q_j - q_i) / c_ij]`, which span the same functions and have the second moment 1:
    candidates are much alike, and of one that is large all others would be judged by their errors along it alone. The
    true value function has the loss 0, as its errors have the mean 0 wherever one looks; no loss is above the root of
    the mean squared error.

    Args:
        value: `[C, N]` values of `C` candidate functions of one policy at recorded states and actions.
        next_value: `[C, N]` the same at what followed and the policy's action there.
        reward: `[N]` rewards.
        discount: `[N]` discount of what follows, 0 after a terminal state.

    Returns:
        Losses in the reward's units; infinite of candidates that are not finite, which no other is held against.
    """
    q, error = value.double(), (value - reward - discount * next_value).double()
    finite = q.isfinite().all(-1) & error.isfinite().all(-1)
    q, error = (x.where(finite.unsqueeze(-1), 0.0) for x in (q, error))
    losses = []
    for i in range(len(q)):
        # The features `[C, N]` that judge candidate i: its own function, and by how much each other one differs.
        feature = q - q[i]
        feature[i] = q[i]
        size = feature.square().mean(-1).sqrt()
        violation = (feature @ error[i]).abs() / len(reward) / size.where(size > 0.0, 1.0)
        losses.append(violation.where(finite, 0.0).amax())
    return torch.stack(losses).where(finite, torch.inf)


def lstd_tournament(losses: Tensor) -> int:
    """Which of the candidates wins: the one whose worst pair is the best.

    Args:
        losses: `[C]` of `lstd_losses`.

    Raises:
        ValueError: no candidate is finite.
    """
    if not bool(losses.isfinite().any()):
        raise ValueError("no candidate of the tournament is finite")
    return int(losses.argmin())
