"""Weights with which recorded episodes are learned from."""

from __future__ import annotations

import math

from torch import Tensor

LEAST_SHARE = 0.05
"""Of the transitions, that count at least: policies that few episodes teach know few states."""

WIDEST = 1e6
"""Temperature at which all episodes count alike."""


def return_weights(returns: Tensor, temperature: float, among: Tensor) -> Tensor:
    """`[E]` weights of the transitions of episodes with returns `[E]`, the best of the reference episodes having 1.

    It is return weighting (Hong et al. 2023, https://arxiv.org/abs/2306.13085): `exp(g / temperature)`, with returns
    scaled to [0, 1] between the worst and the best of `among`, here as a share of the best one's. Drawing by these
    weights is drawing uniformly from data of a better behaviour policy, so that any algorithm may learn from them. With
    episodes that are all alike all weights are 1. Better returns than the best of `among` count as that one.

    Args:
        returns: `[E]` undiscounted returns.
        temperature: 0.1 in the paper; the smaller, the more the best episodes count.
        among: `[F]` returns of the reference episodes, which are those that are learned from.
    """
    returns, among = returns.double(), among.double()
    worst, best = among.min(), among.max()
    if worst == best:
        return returns.new_ones(len(returns))
    return (((returns - best) / (best - worst)).clamp(max=0.0) / temperature).exp()


def effective_share(weights: Tensor, lengths: Tensor) -> float:
    """Share of all transitions that would say as much, weighted alike, as these do (Kish 1965, section 11.7).

    Args:
        weights: `[E]` weights of the transitions of each episode.
        lengths: `[E]` transitions of each episode.
    """
    lengths = lengths.double()
    return float((lengths * weights).sum().square() / (lengths * weights.square()).sum() / lengths.sum())


def wide_enough(temperature: float, returns: Tensor, lengths: Tensor) -> float:
    """The temperature of return weighting, raised where it would leave less than `LEAST_SHARE` of the transitions.

    Args:
        temperature: the temperature that is asked for.
        returns: `[E]` undiscounted returns of the episodes that are learned from.
        lengths: `[E]` transitions of each.
    """

    def share(exponent: float) -> float:
        return effective_share(return_weights(returns, math.exp(exponent), returns), lengths)

    low, high = math.log(temperature), math.log(WIDEST)
    if share(low) >= LEAST_SHARE:
        return temperature
    for _ in range(50):  # the share rises with the temperature: bisection, to far below what rounding leaves
        middle = (low + high) / 2.0
        low, high = (middle, high) if share(middle) < LEAST_SHARE else (low, middle)
    return math.exp(high)
