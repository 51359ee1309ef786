"""Probes: how much of a quantity can be read off given features, by a function that is simple enough."""

from __future__ import annotations

import torch
from torch import Tensor


def standardised(train: Tensor, test: Tensor, floor: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Both with the mean and deviation `[D]` of the first, over rows `[n, D]` and `[m, D]`.

    Args:
        train: rows that are learned from.
        test: rows that are judged.
        floor: least deviation, as a share of the largest one, so that what is all but constant does not explode.
    """
    mean, deviation = train.mean(0), train.std(0, correction=0)
    scale = torch.maximum(deviation, floor * deviation.amax()).clamp_min(1e-12)
    return (train - mean) / scale, (test - mean) / scale


def ridge(train: Tensor, target: Tensor, test: Tensor, strength: float) -> Tensor:
    """Predictions `[m, C]` of the linear function that fits `[n, C]` targets best, in float64.

    It minimises the mean squared error over the `n` rows plus `strength` times its squared weights; the offset is free.
    Solved for the `D` weights or, where there are fewer rows, for these.

    Args:
        train: `[n, D]` rows that are learned from.
        target: `[n, C]`.
        test: `[m, D]` rows that are predicted.
        strength: above 0, in the units of the squared features.
    """
    train, target, test = train.double(), target.double(), test.double()
    centre, offset = train.mean(0), target.mean(0)
    x, y, rows = train - centre, target - offset, len(train)
    wide = x.shape[1] > rows
    gram = x @ x.T if wide else x.T @ x
    gram.diagonal().add_(rows * strength)
    factor = torch.linalg.cholesky(gram)
    weight = x.T @ torch.cholesky_solve(y, factor) if wide else torch.cholesky_solve(x.T @ y, factor)
    return (test - centre) @ weight + offset


def accuracy(score: Tensor, index: Tensor) -> Tensor:
    """Share of the rows `[..., m]` whose highest of the scores `[..., m, C]` is that of the class `[m]`."""
    return (score.argmax(-1) == index).float().mean(-1)


def explained_share(predicted: Tensor, truth: Tensor) -> Tensor:
    """`R^2` of predictions `[..., m]` of numbers `[m]`: 1 less their squared error over the variance of the numbers."""
    return 1.0 - (predicted - truth).square().mean(-1) / truth.var(correction=0)
