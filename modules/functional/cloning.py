"""Losses of cloning recorded actions, also where they lie on the bound of their range.

A squashed normal has no density on the bound: moved inside by next to nothing, an action there weighs more than all
others together, and the likeliest mean follows it. So actions near enough to the bound may count by the probability
of lying beyond that distance, as a censored observation does (Tobin 1958, "Estimation of Relationships for Limited
Dependent Variables", https://doi.org/10.2307/1907382).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from modules.functional.distributions import tanh_normal_log_prob

LOSSES = ("likelihood", "squared_error")
"""The choices of `cloning_loss`."""

ERROR_WEIGHT = 10.0
"""Weight of the squared error against the likelihood: that of a normal with a deviation of 0.22 in action units."""


def censored_log_prob(action: Tensor, mean: Tensor, log_std: Tensor, saturation: float) -> Tensor:
    """Log-probability per dimension of actions in [-1, 1] under a squashed normal, censored near the bounds.

    Args:
        action: `[..., A]`.
        mean: `[..., A]`, before squashing.
        log_std: `[..., A]`.
        saturation: distance from the bound within which an action counts as on it, that is by the log-probability of
            all actions within that distance; 0 is the plain density, see `tanh_normal_log_prob`.
    """
    if saturation == 0:
        return tanh_normal_log_prob(action, mean, log_std)
    bound = 1.0 - saturation
    inside = tanh_normal_log_prob(action, mean, log_std)
    beyond = torch.special.log_ndtr((action.sign() * mean - math.atanh(bound)) * torch.exp(-log_std))
    return torch.where(action.abs() >= bound, beyond, inside)


def action_regression(action: Tensor, mean: Tensor, log_std: Tensor, saturation: float) -> Tensor:
    """Squared error of the most likely action, and the likelihood of the deviation around it, `[..., A]`.

    The mean learns from the squared error in action units alone, which noise near the bounds does not move away; the
    deviation learns from the censored likelihood with that mean. Arguments as in `censored_log_prob`.
    """
    error = (mean.tanh() - action).square()
    return ERROR_WEIGHT * error - censored_log_prob(action, mean.detach(), log_std, saturation)


def cloning_loss(kind: str, action: Tensor, mean: Tensor, log_std: Tensor, saturation: float) -> Tensor:
    """`[..., A]` loss of actions under a squashed normal, to be minimised: one of `LOSSES`, see the two above."""
    if kind == "squared_error":
        return action_regression(action, mean, log_std, saturation)
    return -censored_log_prob(action, mean, log_std, saturation)


def judged_by(kind: str) -> str:
    """Name of the held-out error that says when cloning by this loss has stopped getting better.

    Of a squared error it is that error alone. Beside it the deviation learns, which soon knows the training actions too
    well: the loss of both rises on held-out ones while the most likely actions, which are played, still come nearer.
    """
    return "action_error" if kind == "squared_error" else "cloning_loss"
