"""How good an algorithm is over few runs on one task or several: aggregates, profiles and comparisons of scores.

Source: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice"
(https://arxiv.org/abs/2108.13264), whose own code is the library rliable. Scores are handed over by task, one array for
each, `[..., N]` with the runs last; tasks may have different numbers of runs. Axes before are draws of a bootstrap.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Scores = Sequence[np.ndarray]
"""Scores of each task, `[..., N]`."""


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Mean without the lowest and the highest quarter of the values: `[..., N] -> [...]`; of fewer than four, the mean.

    A quarter is rounded down to whole values.
    """
    cut = values.shape[-1] // 4
    kept: np.ndarray = np.sort(values, -1)[..., cut : values.shape[-1] - cut].mean(-1)
    return kept


def pooled_interquartile_mean(scores: Scores) -> np.ndarray:
    """Interquartile mean over all runs on all tasks (section 4.3)."""
    return interquartile_mean(np.concatenate(scores, -1))


def mean_score(scores: Scores) -> np.ndarray:
    """Mean over tasks of the mean over runs."""
    mean: np.ndarray = np.mean([task.mean(-1) for task in scores], 0)
    return mean


def median_score(scores: Scores) -> np.ndarray:
    """Median over tasks of the mean over runs; on a single task, which has no such median, that over runs."""
    means = scores[0] if len(scores) == 1 else np.stack([task.mean(-1) for task in scores], -1)
    median: np.ndarray = np.median(means, -1)
    return median


def optimality_gap(scores: Scores, target: float) -> np.ndarray:
    """How far runs fall short of a target on average; what exceeds it counts as reaching it (section 4.3)."""
    gap: np.ndarray = target - np.minimum(np.concatenate(scores, -1), target).mean(-1)
    return gap


def share_above(scores: Scores, thresholds: np.ndarray) -> np.ndarray:
    """Performance profile: share of runs on all tasks above each threshold, `[K] -> [..., K]` (section 4.2)."""
    above: np.ndarray = (np.concatenate(scores, -1)[..., None, :] > thresholds[:, None]).mean(-1)
    return above


def probability_of_improvement(scores: Scores, others: Scores) -> np.ndarray:
    """Probability that a run of one algorithm is better than one of another on the same task, over tasks (section 4.3).

    Equal scores count as half: it is the Mann-Whitney statistic over the number of pairs.
    """
    shares = []
    for mine, theirs in zip(scores, others, strict=True):
        difference = mine[..., :, None] - theirs[..., None, :]
        shares.append((0.5 + 0.5 * np.sign(difference)).mean((-2, -1)))
    mean: np.ndarray = np.mean(shares, 0)
    return mean
