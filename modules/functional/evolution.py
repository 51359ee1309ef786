"""Population based training, as pure functions of scores and numbers: who copies whom, and how genes change.

Source: Jaderberg et al. 2017, "Population Based Training of Neural Networks" (https://arxiv.org/abs/1711.09846),
section 4; Jaderberg et al. 2019, "Human-level performance in 3D multiplayer games with population-based reinforcement
learning" (Science 364, https://arxiv.org/abs/1807.01281), for integers that are drawn anew.

A gene is a number of one of three kinds, see `modules.arguments.tunable.Change`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from modules.arguments.tunable import Change
from modules.functional.ratings import win_probability


def truncation(means: Sequence[float], share: float, random: np.random.Generator) -> list[int | None]:
    """For each member the one that it copies: the worst share copies one of the best share, drawn uniformly.

    Members of equal means are ranked by their number, the lower the better.

    Args:
        means: `[M]` scores; minus infinity for a member that has failed.
        share: share of the members at each end, rounded down but one member at least.
        random: draws who is copied.
    """
    order = sorted(range(len(means)), key=lambda member: (-means[member], member))
    count = max(1, int(share * len(means)))
    best = order[:count]
    chosen: list[int | None] = [None] * len(means)
    for member in sorted(order[-count:]):
        donor = best[int(random.integers(count))]
        chosen[member] = donor if means[donor] > means[member] else None
    return chosen


def tournament(
    means: Sequence[float],
    deviations: Sequence[float],
    counts: Sequence[int],
    level: float,
    random: np.random.Generator,
) -> list[int | None]:
    """For each member the one that it copies: another one, drawn uniformly, if its returns are better for sure.

    That is by Welch's t-test, one-sided. Returns without a deviation are compared as they are.

    Args:
        means: `[M]` means of returns; minus infinity for a member that has failed.
        deviations: `[M]` standard deviations of the returns, with `n - 1` in the divisor.
        counts: `[M]` numbers of returns `n`.
        level: probability of a difference as large where there is none, below which it counts.
        random: draws the other one.
    """
    chosen: list[int | None] = []
    for member, other in _others(means, random):
        mean = means[member]
        better = means[other] > mean
        if better and math.isfinite(mean) and min(counts[member], counts[other]) > 1:
            squares = [deviations[i] ** 2 / counts[i] for i in (other, member)]
            if sum(squares) > 0.0:
                freedom = sum(squares) ** 2 / sum(
                    square**2 / (counts[i] - 1) for square, i in zip(squares, (other, member), strict=True)
                )
                better = student_tail((means[other] - mean) / math.sqrt(sum(squares)), freedom) < level
        chosen.append(other if better else None)
    return chosen


def rated_tournament(ratings: Sequence[float], threshold: float, random: np.random.Generator) -> list[int | None]:
    """For each member the one that it copies: another one, drawn uniformly, that would win against it often enough.

    Ratings promise how often (Jaderberg et al. 2019, who compare with 70%). Who is not better is never copied.

    Args:
        ratings: `[M]` Elo ratings; minus infinity for a member that has failed.
        threshold: chance of the other one to win, in which a draw is half a win, from which on it is copied.
        random: draws the other one.
    """
    chosen: list[int | None] = []
    for member, other in _others(ratings, random):
        better = ratings[other] > ratings[member]  # so that two that have failed, or are equal, copy nobody
        ahead = torch.tensor(ratings[other] - ratings[member], dtype=torch.float64)
        chosen.append(other if better and float(win_probability(ahead)) >= threshold else None)
    return chosen


def student_tail(t: float, freedom: float) -> float:
    """Probability that a number of Student's t distribution is larger than `t`, 0 or more.

    With `t = sqrt(freedom) tan(u)` its density is a power of a cosine, which Gauss and Legendre's rule sums up.
    """
    end = math.atan(t / math.sqrt(freedom))
    places, weights = np.polynomial.legendre.leggauss(64)
    between = np.cos(0.5 * end * (places + 1.0)) ** (freedom - 1.0)
    scale = math.exp(math.lgamma(0.5 * (freedom + 1.0)) - math.lgamma(0.5 * freedom)) / math.sqrt(math.pi)
    return max(0.0, 0.5 - scale * 0.5 * end * float(weights @ between))


def first_gene(change: Change, low: float, high: float, random: np.random.Generator) -> float | int:
    """A gene of a new member: log-uniform between the bounds, in the distance from 1 of a horizon; integers uniform."""
    if change == "whole":
        return int(random.integers(int(low), int(high) + 1))
    if change == "horizon":
        return 1.0 - _log_uniform(1.0 - high, 1.0 - low, random)
    return _log_uniform(low, high, random)


def perturbed_gene(
    change: Change, value: float, low: float, high: float, factors: Sequence[float], random: np.random.Generator
) -> float | int:
    """A gene times one of the factors, each as likely, within its bounds; an integer is drawn anew."""
    factor = factors[int(random.integers(len(factors)))]
    if change == "whole":
        return first_gene(change, low, high, random)
    moved = 1.0 - factor * (1.0 - value) if change == "horizon" else factor * value
    return min(max(moved, low), high)


def _others(members: Sequence[float], random: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Each member, and another one that is drawn for it, each of the others as likely."""
    for member in range(len(members)):
        drawn = int(random.integers(len(members) - 1))
        yield member, drawn + (drawn >= member)


def _log_uniform(low: float, high: float, random: np.random.Generator) -> float:
    drawn = math.exp(random.uniform(math.log(low), math.log(high)))
    return min(max(drawn, low), high)
