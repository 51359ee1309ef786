"""Maps and clips of values and actions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def clip_straight_through(x: Tensor, low: float, high: float) -> Tensor:
    """Clamp in the forward pass, identity in the backward pass.

    A plain clamp has no gradient where it binds, so a value that has left the range would never be pulled back.
    """
    return x + (x.clamp(low, high) - x).detach()


def to_unit(action: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Map `[..., A]` actions from the box `[low, high]` to `[-1, 1]`."""
    return 2.0 * (action - low) / (high - low) - 1.0


def from_unit(action: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Map `[..., A]` actions from `[-1, 1]` to the box `[low, high]`."""
    return low + 0.5 * (action + 1.0) * (high - low)


def symlog(x: Tensor) -> Tensor:
    """`sign(x) log(1 + |x|)` elementwise: the identity near zero, a logarithm far from it.

    Source: Hafner et al. 2023, "Mastering Diverse Domains through World Models" (https://arxiv.org/abs/2301.04104),
    equation 1.
    """
    return _odd(torch.log1p, x)


def symexp(x: Tensor) -> Tensor:
    """Inverse of `symlog`: `sign(x) (exp(|x|) - 1)` elementwise."""
    return _odd(torch.expm1, x)


def _odd(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    negative = x < 0  # `abs` and `sign` would do, but have the gradient 0 at 0
    value = function(torch.where(negative, -x, x))
    return torch.where(negative, -value, value)


def to_two_hot(x: Tensor, bins: Tensor) -> Tensor:
    """Weights of the two bins around each number, such that their weighted mean is the number.

    Source: Hafner et al. 2023 (https://arxiv.org/abs/2301.04104), equation 9.

    Args:
        x: `[...]`; clipped to the range of the bins.
        bins: `[K]` increasing, with any distances.

    Returns:
        `[..., K]` weights that sum to one, at most two of them positive.
    """
    x = x.contiguous().clamp(bins[0], bins[-1])
    below = (torch.searchsorted(bins, x, right=True) - 1).clamp(0, len(bins) - 2)
    low, high = bins[below], bins[below + 1]
    share = ((x - low) / (high - low)).unsqueeze(-1)
    weights = x.new_zeros(*x.shape, len(bins))
    return weights.scatter(-1, below.unsqueeze(-1), 1.0 - share).scatter(-1, below.unsqueeze(-1) + 1, share)


def from_two_hot(probabilities: Tensor, bins: Tensor) -> Tensor:
    """Expected bin of `[..., K]` probabilities: `[...]`.

    Bins are summed in pairs from both ends, so that symmetric bins under equal probabilities give exactly zero.
    """
    parts = probabilities * bins
    return 0.5 * (parts + parts.flip(-1)).sum(-1)
