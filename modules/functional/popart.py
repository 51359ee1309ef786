"""Statistics of values that follow their targets, and what keeps predictions as they are when they move (PopArt).

Source: van Hasselt et al. 2016, "Learning values across many orders of magnitude" (https://arxiv.org/abs/1602.07714),
section 2; Hessel et al. 2019, "Multi-task Deep Reinforcement Learning with PopArt" (https://arxiv.org/abs/1809.04474).

All tensors are `[K]`, one entry per task, and should be float64: the variance is a difference of squares.
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST, LARGEST = 1e-4, 1e6
"""The limits of a deviation."""


def moving_moments(
    state: tuple[Tensor, Tensor, Tensor], batch: tuple[Tensor, Tensor, Tensor], decay: float
) -> tuple[Tensor, Tensor, Tensor]:
    """First and second moment after one batch, debiased, and their weight.

    A task's moments move by one step towards the mean over its targets in the batch, however many there are; the papers
    move them once per target. The step is `decay / weight`, where the weight grows from 0 to 1 as that of an
    exponential average that starts empty: the first batch replaces the start, later ones move it ever less.

    Args:
        state: mean `mu`, second moment `nu` and weight.
        batch: sum of the targets, sum of their squares and their count; where it is 0, nothing changes.
        decay: share of the way that an average moves, in (0, 1].
    """
    mu, nu, weight = state
    total, squares, count = batch
    present = count > 0
    count = count.clamp_min(1)
    weight = torch.where(present, weight + decay * (1.0 - weight), weight)
    step = torch.where(present, decay / weight, 0.0)
    return mu + step * (total / count - mu), nu + step * (squares / count - nu), weight


def plain_moment(means: Tensor, decay: float) -> Tensor:
    """The definition of the moments that `moving_moments` keeps: of `[N, K]` means of batches, the mean in which the
    weight of each falls by `1 - decay` with every later batch: `[K]`.
    """
    age = torch.arange(len(means) - 1, -1, -1, dtype=means.dtype)
    weights = (decay * (1.0 - decay) ** age).unsqueeze(-1)
    return (weights * means).sum(0) / weights.sum()


def deviation(mu: Tensor, nu: Tensor, smallest: float = SMALLEST, largest: float = LARGEST) -> Tensor:
    """`sqrt(nu - mu^2)` within its limits."""
    return (nu - mu.square()).clamp_min(0.0).sqrt().clamp(smallest, largest)


def rescale_factors(old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Scale `sigma / sigma'` and shift `(mu - mu') / sigma'` that keep `sigma n + mu` as it is.

    Args:
        old: mean `mu` and deviation `sigma` before.
        new: mean `mu'` and deviation `sigma'` after.
    """
    return old[1] / new[1], (old[0] - new[0]) / new[1]
