"""The choice among policies by estimates of their values, and how good the estimates themselves were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from modules.functional.statistics import crossed_interval


class Interval(NamedTuple):
    """A mean and its 95% interval."""

    mean: float
    low: float
    high: float


class Choice(NamedTuple):
    """Which policy to take.

    Attributes:
        chosen: position of the policy to take: `best`, or `safe` where `best` is not clearly better.
        best: position of the one with the highest lower bound.
        safe: position of the safe fallback.
        values: `K` estimated values.
        gain: value of `best` above `safe`, with the interval of the paired difference.
        margin: value of `best` above that of the other with the next highest lower bound; None without another.
        runner_up: position of that one; None without another.
        told_apart: whether there are several seeds and several starting states, without which no interval says how
            much is chance.
    """

    chosen: int
    best: int
    safe: int
    values: list[Interval]
    gain: Interval
    margin: Interval | None
    runner_up: int | None
    told_apart: bool


def interval_of(values: np.ndarray) -> Interval:
    """Mean and interval of `[S, E]` estimates, over seeds of the estimator and starting states."""
    return Interval(float(np.mean(values)), *crossed_interval(values))


def choose(values: np.ndarray, safe: int) -> Choice:
    """The policy with the highest lower bound, if it is better than the safe one with 95% confidence; else that one.

    Differences are paired: the estimates of two policies share their seeds and their starting states. By one seed or
    one starting state nothing is known of chance, and the safe one is taken.

    Args:
        values: `[S, K, E]` estimated values of `K` policies by `S` seeds in `E` starting states, finite.
        safe: position of the fallback.
    """
    count = values.shape[1]
    found = [interval_of(values[:, k]) for k in range(count)]
    ranked = sorted(range(count), key=lambda k: found[k].low, reverse=True)
    best, runner_up = ranked[0], ranked[1] if count > 1 else None
    gain = interval_of(values[:, best] - values[:, safe])
    margin = None if runner_up is None else interval_of(values[:, best] - values[:, runner_up])
    told_apart = min(values.shape[0], values.shape[2]) > 1
    chosen = best if told_apart and gain.low > 0.0 else safe
    return Choice(chosen, best, safe, found, gain, margin, runner_up, told_apart)


def regret(estimated: Sequence[float] | np.ndarray, true: Sequence[float] | np.ndarray) -> float:
    """True value of the best policy above that of the one with the highest estimate: regret@1.

    Args:
        estimated: `[K]` estimates.
        true: `[K]` true values.
    """
    return float(np.max(true) - np.asarray(true)[int(np.argmax(estimated))])


def rank_correlation(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> float:
    """Spearman's rank correlation of two lists of `K` numbers; equal numbers share their mean rank.

    NaN where all numbers of a list are equal.
    """
    ranks = [_ranks(np.asarray(x, dtype=np.float64)) for x in (first, second)]
    a, b = (r - r.mean() for r in ranks)
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else float("nan")


def _ranks(values: np.ndarray) -> np.ndarray:
    below = (values[:, None] > values).sum(1)
    equal = (values[:, None] == values).sum(1)
    return below + (equal + 1) / 2
