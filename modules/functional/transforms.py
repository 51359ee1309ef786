"""Maps and clips of values and actions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.arguments.checks import check_choice, check_positive


def clip_straight_through(x: Tensor, low: float, high: float) -> Tensor:
    """Clamp in the forward pass, identity in the backward pass.

    A plain clamp has no gradient where it binds, so a value that has left the range would never be pulled back.
    """
    return x + (x.clamp(low, high) - x).detach()


def soft_clamp(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Bend `x` smoothly into `[low, high]`, elementwise; both bounds have gradients (Chua et al. 2018, appendix A.1).

    Source: "Deep Reinforcement Learning in a Handful of Trials using Probabilistic Dynamics Models"
    (https://arxiv.org/abs/1805.12114). The lower bound is exact, the upper one up to `log(1 + exp(low - high))`.
    """
    return low + F.softplus(high - F.softplus(high - x) - low)


def to_unit(action: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Map `[..., A]` actions from the box `[low, high]` to `[-1, 1]`."""
    return 2.0 * (action - low) / (high - low) - 1.0


def from_unit(action: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Map `[..., A]` actions from `[-1, 1]` to the box `[low, high]`."""
    return low + 0.5 * (action + 1.0) * (high - low)


FLAT = 1e-5
"""Range below which numbers count as all alike."""


def to_unit_range(x: Tensor) -> Tensor:
    """Shift and stretch the last axis of `[..., D]` such that its least number is 0 and its greatest 1.

    Rows whose numbers are all alike become zeros, and those that nearly are stay near 0. Source: Schrittwieser et al.
    2020 (https://arxiv.org/abs/1911.08265), appendix G.
    """
    low, high = x.aminmax(dim=-1, keepdim=True)
    return (x - low) / (high - low).clamp_min(FLAT)


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


def signed_hyperbolic(x: Tensor, eps: float = 1e-3) -> Tensor:
    """`h(x) = sign(x) (sqrt(|x| + 1) - 1) + eps x` elementwise: a square root far from zero, until `eps x` is greater.

    Written without the difference, `x / (sqrt(|x| + 1) + 1)`, so that small numbers keep their digits in float32, where
    TorchRL's form is wrong by 1e-4 of the number at 1e-3 and by more below.

    Source: Pohlen et al. 2018, "Observe and Look Further: Achieving Consistent Performance on Atari"
    (https://arxiv.org/abs/1805.11593), with `eps` 1e-2; Kapturowski et al. 2019 (R2D2) take 1e-3.

    Args:
        x: `[...]`.
        eps: positive, keeps the inverse from growing faster than linearly.
    """
    return x / ((x.abs() + 1.0).sqrt() + 1.0) + eps * x


def signed_parabolic(x: Tensor, eps: float = 1e-3) -> Tensor:
    """Inverse of `signed_hyperbolic` with the same `eps`, elementwise.

    With `w = sqrt(|h^-1(x)| + 1) - 1`, `|x| = eps w^2 + (1 + 2 eps) w`; the root is written without a difference, so
    that nothing cancels, neither near zero nor for a small `eps`. The inverse is `w (w + 2)`, with the sign of `x`.
    """
    linear = 1.0 + 2.0 * eps
    root = 2.0 * x / (linear + (linear * linear + 4.0 * eps * x.abs()).sqrt())
    return root * (root.abs() + 2.0)


def identity(x: Tensor) -> Tensor:
    """The number itself."""
    return x


class ValueTransform(NamedTuple):
    """An increasing function of values and its inverse, both elementwise.

    Attributes:
        forward: map from the units of the reward.
        inverse: map back to them.
    """

    forward: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]


TransformName = Literal["identity", "signed_hyperbolic", "symlog"]
EPS = 1e-3
"""The `eps` of the signed hyperbolic function, where none is given."""


def value_transform(name: TransformName, eps: float = EPS) -> ValueTransform:
    """Transform and inverse by name.

    Raises:
        ValueError: there is none of this name, or `eps` is not positive or belongs to another function.
    """
    if name == "signed_hyperbolic":
        check_positive(eps=eps)
        return ValueTransform(partial(signed_hyperbolic, eps=eps), partial(signed_parabolic, eps=eps))
    if eps != EPS:
        raise ValueError(f"eps would be ignored: transform {name} has none, only signed_hyperbolic does")
    pairs = {"identity": ValueTransform(identity, identity), "symlog": ValueTransform(symlog, symexp)}
    check_choice("transform", name, ("signed_hyperbolic", *pairs))
    return pairs[name]


def to_two_hot(x: Tensor, bins: Tensor) -> Tensor:
    """Weights of the two bins around each number, such that their weighted mean is the number.

    Source: Hafner et al. 2023 (https://arxiv.org/abs/2301.04104), equation 9.

    Args:
        x: `[...]`; clipped to the range of the bins.
        bins: `[K]` increasing, with any distances.

    Returns:
        `[..., K]` weights that sum to one, at most two of them positive.
    """
    below, share = _place(x.unsqueeze(-1), bins)
    weights = share.new_zeros(*x.shape, len(bins))
    return weights.scatter(-1, below, 1.0 - share).scatter(-1, below + 1, share)


def project(values: Tensor, probability: Tensor, bins: Tensor) -> Tensor:
    """A distribution on other numbers, told by weights of the bins: the weighted sum of the two-hots of its atoms.

    The mean stays as it is, as far as the atoms lie within the bins.

    Source: Bellemare et al. 2017, "A Distributional Perspective on Reinforcement Learning"
    (https://arxiv.org/abs/1707.06887), equation 7, for bins with any distances.

    Args:
        values: `[..., J]` atoms; clipped to the range of the bins.
        probability: `[..., J]` of the atoms.
        bins: `[K]` increasing, with any distances.

    Returns:
        `[..., K]` weights with the sum of the probabilities.
    """
    below, share = _place(values, bins)
    weights = share.new_zeros(*values.shape[:-1], len(bins))
    upper = probability * share
    return weights.scatter_add(-1, below, probability - upper).scatter_add(-1, below + 1, upper)


def plain_project(values: Tensor, probability: Tensor, bins: Tensor) -> Tensor:
    """The definition of `project`: the two-hot of each atom, times its probability, summed."""
    return (probability.unsqueeze(-1) * to_two_hot(values, bins)).sum(-2)


def _place(x: Tensor, bins: Tensor) -> tuple[Tensor, Tensor]:
    """The bin next below each number, and the share of the way from it to the one above; numbers beyond are clipped."""
    x = x.contiguous().clamp(bins[0], bins[-1])
    below = (torch.searchsorted(bins, x, right=True) - 1).clamp(0, len(bins) - 2)
    low, high = bins[below], bins[below + 1]
    return below, (x - low) / (high - low)


def from_two_hot(probabilities: Tensor, bins: Tensor) -> Tensor:
    """Expected bin of `[..., K]` probabilities: `[...]`.

    Bins are summed in pairs from both ends, so that symmetric bins under equal probabilities give exactly zero.
    """
    parts = probabilities * bins
    return 0.5 * (parts + parts.flip(-1)).sum(-1)
