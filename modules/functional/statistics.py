"""Bootstrap intervals of a few returns or estimates, and how uneven loads are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from modules.arguments.checks import check_positive, check_shares


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
    low, high = stratified_interval([values], lambda drawn: drawn[0].mean(-1), confidence, resamples, seed)
    return float(low), float(high)


def stratified_interval(
    strata: Sequence[np.ndarray | Sequence[float]],
    statistic: Callable[[Sequence[np.ndarray]], np.ndarray],
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap interval of a statistic of several groups, each of which is resampled within itself.

    Source: Agarwal et al. 2021, section 4.1 (https://arxiv.org/abs/2108.13264), whose strata are tasks and whose values
    are the scores of runs.

    Args:
        strata: groups of finite numbers, `[N]` each, at least one in each.
        statistic: from groups `[resamples, N]` to values `[resamples, ...]`.
        confidence: probability mass of the interval, between 0 and 1.
        resamples: number of resampled statistics.
        seed: seed of the resampling, so that the same values always give the same interval.

    Returns:
        low and high, `[...]`.

    Raises:
        ValueError: a group is empty or not finite, or `confidence` is not a probability.
    """
    check_positive(confidence=confidence)
    check_shares(confidence=confidence)
    samples = [_finite_vector(stratum) for stratum in strata]
    rng = np.random.default_rng(seed)
    drawn = [sample[rng.integers(len(sample), size=(resamples, len(sample)))] for sample in samples]
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(statistic(drawn), [tail, 1.0 - tail], axis=0)
    return low, high


def crossed_interval(
    values: np.ndarray, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over two crossed causes of chance, both drawn anew (Owen 2007).

    Every estimate of a row shares what is random about the row, such as the seed of a learner, and every estimate of a
    column what is random about the column, such as a starting state: numbers of a row are not independent.

    Source: "The pigeonhole bootstrap" (https://arxiv.org/abs/0712.1111).

    Args:
        values: `[S, E]` finite numbers; a single row or column adds no width.
        confidence: probability mass of the interval, between 0 and 1.
        resamples: number of resampled means.
        seed: seed of the resampling, so that the same values always give the same interval.

    Returns:
        `(low, high)`, in the units of `values`.

    Raises:
        ValueError: `values` is empty or not finite, or `confidence` is not a probability.
    """
    check_positive(confidence=confidence)
    check_shares(confidence=confidence)
    _finite_vector(values)
    table = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    # The mean of a resampled table is that of its cells, weighted by how often their row and their column were drawn.
    weights = [rng.multinomial(n, np.full(n, 1.0 / n), size=resamples) / n for n in table.shape]
    means = ((weights[0] @ table) * weights[1]).sum(1)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
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
