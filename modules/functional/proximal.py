"""Proximal policy optimisation: losses that stop asking for more where a policy or a value has moved far enough.

Source: Schulman et al. 2017, "Proximal Policy Optimization Algorithms" (https://arxiv.org/abs/1707.06347). Every
function but `explained_variance` and `standardised` broadcasts over all axes and reduces nothing. The ratio is the
probability of an action under the policy, divided by that under the policy that took it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

SMALLEST_DEVIATION = 1e-8


def clipped_surrogate(log_ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """`-min(r A, min(max(r, 1 - clip), 1 + clip) A)`, the loss of a policy (equation 7).

    It has no gradient where the ratio `r` is out of its range and a larger step would only lower the loss further.

    Args:
        log_ratio: logarithm of the ratio.
        advantage: advantage `A` of the action.
        clip: distance from 1 that the ratio may reach.
    """
    ratio = log_ratio.exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage)


def beyond_clip(log_ratio: Tensor, clip: float) -> Tensor:
    """1 where the ratio is farther from 1 than `clip`, else 0: its mean is the fraction that is clipped."""
    return ((log_ratio.exp() - 1.0).abs() > clip).float()


def approximate_kl(log_ratio: Tensor) -> Tensor:
    """`(r - 1) - log r` of actions that the old policy took: its mean estimates KL(old || new), and none is negative.

    Source: Schulman 2020, "Approximating KL Divergence" (http://joschu.net/blog/kl-approx.html), its third estimator.
    """
    return torch.expm1(log_ratio) - log_ratio


def clipped_value_loss(loss: Callable[[Tensor], Tensor], value: Tensor, before: Tensor, clip: float) -> Tensor:
    """The greater of the losses of a value, and of the value had it moved by no more than `clip`.

    So it has no gradient where a value has moved farther than that towards its target. Source: Schulman's own code,
    github.com/openai/baselines, `ppo2`; not in the paper.

    Args:
        loss: loss of values, one by one.
        value: `[...]` values that learn.
        before: `[...]` what they were when the data were collected.
        clip: distance that they may move, in their units.
    """
    moved = before + (value - before).clamp(-clip, clip)
    return torch.maximum(loss(value), loss(moved))


def explained_variance(value: Tensor, target: Tensor) -> Tensor:
    """`1 - Var[target - value] / Var[target]`, a scalar: 1 for values that tell all, 0 for those that tell nothing.

    Below 0 they tell less than any constant; 0, too, where all targets are alike.

    Args:
        value: `[N]`.
        target: `[N]`.
    """
    spread = target.var(correction=0)
    share = 1.0 - (target - value).var(correction=0) / torch.where(spread > 0.0, spread, 1.0)
    return torch.where(spread > 0.0, share, 0.0)


def standardised(x: Tensor, count: Tensor, total: Tensor, squares: Tensor) -> Tensor:
    """`(x - mean) / (deviation + 1e-8)`, of numbers whose count, sum and sum of squares are known.

    The deviation is that of a sample: the squares are divided by the count less 1. All broadcast.

    Args:
        x: `[...]` numbers.
        count: how many numbers there are, at least one; a single one becomes 0.
        total: their sum, in float64, as the variance is a difference of squares.
        squares: sum of their squares, in float64.
    """
    mean = total / count
    variance = ((squares - total * mean) / (count - 1.0).clamp_min(1.0)).clamp_min(0.0)
    return ((x - mean) / (variance.sqrt() + SMALLEST_DEVIATION)).to(x.dtype)
