"""Statistics of a few returns, bootstrap intervals and the interquartile mean, and how uneven loads are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor


def iqm(values: np.ndarray | Sequence[float]) -> float:
    """Interquartile mean: the mean of the middle half of the values, with fractional weights at both cuts.

    Source: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice"
    (https://arxiv.org/abs/2108.13264), section 4.3; fractional weights make it smooth in the number of values.

    Args:
        values: `[N]` finite numbers, at least one.

    Raises:
        ValueError: `values` is empty.
    """
    ordered = np.sort(_finite_vector(values))
    edges = np.arange(len(ordered) + 1) / len(ordered)
    weights = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0.0, None)
    return float((weights * ordered).sum() / weights.sum())


def bootstrap_interval(
    values: np.ndarray | Sequence[float], confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (Efron & Tibshirani 1993, section 13.3).

    Args:
        values: `[N]` finite numbers, at least one; a single value gives an interval of no width.
        confidence: probability mass of the interval, between 0 and 1.
        resamples: number of resampled means.
        seed: seed of the resampling, so that the same values always give the same interval.

    Returns:
        `(low, high)`, in the units of `values`.

    Raises:
        ValueError: `values` is empty or not finite, or `confidence` is not a probability.
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    sample = _finite_vector(values)
    rows = np.random.default_rng(seed).integers(len(sample), size=(resamples, len(sample)))
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(sample[rows].mean(axis=1), [tail, 1.0 - tail])
    return float(low), float(high)


def _finite_vector(values: np.ndarray | Sequence[float]) -> np.ndarray:
    vector = np.asarray(values, dtype=np.float64).reshape(-1)
    if vector.size == 0:
        raise ValueError("no values: a mean of nothing has no interval")
    if not np.isfinite(vector).all():
        raise ValueError(f"{int((~np.isfinite(vector)).sum())} of {vector.size} values are not finite")
    return vector


def squared_variation(load: Tensor) -> Tensor:
    """Squared coefficient of variation, population variance over squared mean: `[E] -> []`; 0 for an even load."""
    return load.var(correction=0) / (load.mean().square() + 1e-10)
