"""LaProp with adaptive gradient clipping, for one tensor: the optimiser of DreamerV3's current code, as it is defined.

Sources: Ziyin et al. 2020, "LaProp: Separating Momentum and Adaptivity in Adam" (https://arxiv.org/abs/2002.04839);
Brock et al. 2021, "High-Performance Large-Scale Image Recognition Without Normalization"
(https://arxiv.org/abs/2102.06171), section 4.1, with the norm of the whole tensor in the place of rows, as in
github.com/danijar/dreamerv3, embodied/jax/opt.py.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Moments(NamedTuple):
    """Averages that LaProp keeps of a tensor's gradients.

    Attributes:
        square: `[...]` moving average of their squares.
        mean: `[...]` moving average of the normalised gradients.
        steps: number of steps.
    """

    square: Tensor
    mean: Tensor
    steps: int


def clip_to_weight(gradient: Tensor, weight: Tensor, clip: float, least_norm: float) -> Tensor:
    """The gradient, scaled down to a Euclidean norm of `clip` times that of its weight.

    Args:
        gradient: `[...]`.
        weight: `[...]`.
        clip: largest ratio of the two norms.
        least_norm: the weight's norm counts as at least this much.
    """
    largest = clip * weight.norm().clamp_min(least_norm)
    return gradient / (gradient.norm() / largest).clamp_min(1.0)


def laprop_direction(
    gradient: Tensor, moments: Moments, betas: tuple[float, float], eps: float
) -> tuple[Tensor, Moments]:
    """The step for a learning rate of 1, to be subtracted, and the moments behind it.

    Adam averages gradients and divides by their root mean square; LaProp divides first, so that each gradient counts by
    the scale of its own time. Both averages are corrected for their start at zero.

    Args:
        gradient: `[...]`.
        moments: moments before the step.
        betas: decay of the mean, and of the squares.
        eps: added to the root mean square.
    """
    steps = moments.steps + 1
    square = betas[1] * moments.square + (1.0 - betas[1]) * gradient.square()
    normalised = gradient / ((square / (1.0 - betas[1] ** steps)).sqrt() + eps)
    mean = betas[0] * moments.mean + (1.0 - betas[0]) * normalised
    return mean / (1.0 - betas[0] ** steps), Moments(square, mean, steps)
