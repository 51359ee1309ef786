"""Log-densities and samples, written out: no distribution objects in the hot path."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)
ACTION_BOUND = 1.0 - 1e-6  # data actions on the bound have no finite pre-image under tanh


def normal_log_prob(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Elementwise log-density of a diagonal normal; all `[..., A]`."""
    return -0.5 * ((x - mean) * torch.exp(-log_std)).square() - log_std - HALF_LOG_TWO_PI


def tanh_log_jacobian(x: Tensor) -> Tensor:
    """`log(1 - tanh(x)^2)` elementwise, stable for large `|x|` (Haarnoja et al. 2018, appendix C)."""
    return 2.0 * (math.log(2.0) - x - F.softplus(-2.0 * x))


def tanh_normal_sample(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Reparametrised sample of a tanh-squashed diagonal normal, and its log-density.

    Args:
        mean: `[..., A]`, before squashing.
        log_std: `[..., A]`.
        noise: `[..., A]` standard normal draws.

    Returns:
        `[..., A]` action in (-1, 1) and `[..., A]` log-density per dimension; sum over the last axis for the joint.
    """
    x = mean + torch.exp(log_std) * noise
    return torch.tanh(x), -0.5 * noise.square() - log_std - HALF_LOG_TWO_PI - tanh_log_jacobian(x)


def tanh_normal_log_prob(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-density per dimension of given `[..., A]` actions in [-1, 1]; actions on the bound are moved 1e-6 inside."""
    x = torch.atanh(action.clamp(-ACTION_BOUND, ACTION_BOUND))
    return normal_log_prob(x, mean, log_std) - tanh_log_jacobian(x)
