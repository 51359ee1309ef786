"""Weights with which recorded episodes are learned from."""

from __future__ import annotations

from torch import Tensor


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
