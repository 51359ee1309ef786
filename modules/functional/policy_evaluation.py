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


def lstd_moments(value: Tensor, next_value: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
    """Correlation of every candidate's value with every candidate's temporal-difference error, `[C, C]`.

    Entry `(i, j)` is `E[q_i(s, a) (q_j(s, a) - r - discount q_j(s', pi(s')))]`. The true value function has a column of
    zeros whatever the others are: its errors have the mean 0 wherever one looks.

    Args:
        value: `[C, N]` values of `C` candidate functions of one policy at recorded states and actions.
        next_value: `[C, N]` the same at what followed and the policy's action there.
        reward: `[N]` rewards.
        discount: `[N]` discount of what follows, 0 after a terminal state.
    """
    error = value - reward - discount * next_value
    return (value.double() @ error.double().T) / value.shape[-1]


def lstd_tournament(moments: Tensor) -> int:
    """Which of the candidates wins: in pairs, the one whose errors are the least explained by either of the two.

    Source: Liu et al. 2025, "Model Selection for Off-policy Evaluation: New Algorithms and Experimental Protocol"
    (https://arxiv.org/abs/2502.08021): with the values of a pair as features of least-squares temporal differences, the
    loss of a candidate is the largest violation of their equations by itself, and its worst pair counts.

    Args:
        moments: `[C, C]` of `lstd_moments`; candidates with entries that are not finite lose.

    Raises:
        ValueError: no candidate has finite entries.
    """
    finite = moments.diagonal().isfinite()
    if not bool(finite.any()):
        raise ValueError("no candidate of the tournament is finite")
    violation = moments.abs()
    # Of column j: the violation by its own values, and the worst by those of the others that are finite.
    worst = violation.masked_fill(~finite[:, None], 0.0).amax(0)
    return int(worst.masked_fill(~finite, torch.inf).argmin())
