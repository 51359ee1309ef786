"""How much better recorded episodes can be than their mean: what a policy that is learned from them can gain."""

from __future__ import annotations

from torch import Tensor


def headroom(returns: Tensor) -> float:
    """Positive-sided spread of the returns `[E]` of episodes, as a share of their mean's size.

    It is `sqrt(E[max(G - E[G], 0)^2]) / |E[G]|`: the root of the return positive-sided variance, with which what an
    offline policy gains over the behaviour policy goes along (Hong et al. 2023, section 4,
    https://arxiv.org/abs/2306.13085). Episodes that are all alike have none, however good they are; an infinite one
    is of returns that differ around zero.
    """
    returns = returns.double()
    mean = returns.mean()
    spread = (returns - mean).clamp(min=0.0).square().mean().sqrt()
    return float(spread / mean.abs()) if spread > 0 else 0.0
