"""Figures of distributions that are told by atoms: numbers with a probability each."""

from __future__ import annotations

import torch
from torch import Tensor


def moments(number: Tensor, probability: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance, `[...]` each.

    Args:
        number: `[..., J]` atoms, in any order.
        probability: `[..., J]`, with the sum 1.
    """
    mean = (probability * number).sum(-1)
    return mean, (probability * (number - mean.unsqueeze(-1)).square()).sum(-1)


def quantiles(number: Tensor, probability: Tensor, levels: Tensor) -> Tensor:
    """The least atoms that the distribution does not exceed with these probabilities, `[..., Q]`.

    Args:
        number: `[..., J]` atoms, in any order.
        probability: `[..., J]`, with the sum 1.
        levels: `[Q]` probabilities in (0, 1).
    """
    number, order = number.sort(-1)
    reached = probability.gather(-1, order).cumsum(-1)
    reached = reached / reached[..., -1:]  # rounding must not keep the last from 1
    place = torch.searchsorted(reached, levels.expand(*reached.shape[:-1], -1).contiguous())
    return number.gather(-1, place)
