"""Log-densities and samples, written out: no distribution objects in the hot path."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)
ACTION_BOUND = 1.0 - 1e-6  # data actions on the bound have no finite pre-image under tanh
BELOW_ONE = 1.0 - 2.0**-24  # the largest number below 1 in float32
SMALLEST_TAIL = 1e-37  # of a normal, 12.8 deviations out: the last whose quantile is finite in float32


def normal_log_prob(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Elementwise log-density of a diagonal normal; all `[..., A]`."""
    return -0.5 * ((x - mean) * torch.exp(-log_std)).square() - log_std - HALF_LOG_TWO_PI


def normal_entropy(log_std: Tensor) -> Tensor:
    """Entropy per dimension of a diagonal normal, in nats; `[..., A]`."""
    return 0.5 + HALF_LOG_TWO_PI + log_std


def clipped_normal_log_prob(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-density per dimension of a diagonal normal that is clipped to [-1, 1]; all `[..., A]`.

    On a bound, and within 1e-6 of it, it is the log-probability of all that lies beyond (Fujita & Maeda 2018,
    https://arxiv.org/abs/1802.07564, equation 8).
    """
    bound = torch.where(x > 0.0, 1.0, -1.0)
    beyond = torch.special.log_ndtr((bound * mean - 1.0) * torch.exp(-log_std))
    return torch.where(x.abs() >= ACTION_BOUND, beyond, normal_log_prob(x, mean, log_std))


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


def categorical_sample(log_prob: Tensor, noise: Tensor) -> Tensor:
    """One of `n` classes, drawn by their probabilities: the largest of the log-probabilities plus Gumbel noise.

    Args:
        log_prob: `[..., n]`.
        noise: `[..., n]` standard normal draws, of which the distribution function makes the Gumbel noise.

    Returns:
        int64 `[...]` number of the class.
    """
    return (log_prob - torch.log(-torch.special.log_ndtr(noise))).argmax(-1)


def uniform_draws(noise: Tensor) -> Tensor:
    """Standard normal draws to draws from the uniform distribution on [0, 1), elementwise."""
    return torch.special.ndtr(noise).clamp(max=BELOW_ONE)


def gauss_hermite(count: int) -> tuple[Tensor, Tensor]:
    """`[count]` nodes and weights such that `sum(w f(x))` is the mean of `f` under a standard normal."""
    from numpy.polynomial.hermite_e import hermegauss  # here alone, so that these formulas need torch and no more

    nodes, weights = hermegauss(count)
    return torch.from_numpy(nodes).float(), torch.from_numpy(weights / weights.sum()).float()


def tanh_normal_entropy(mean: Tensor, log_std: Tensor, nodes: Tensor, weights: Tensor) -> Tensor:
    """Entropy per dimension of a tanh-squashed diagonal normal, `[..., A]`.

    There is no closed form: the mean of the log-Jacobian is taken by quadrature, with `[Q]` nodes and weights from
    `gauss_hermite`. So it has no noise, and 32 nodes are good to 0.01 for deviations up to 3.
    """
    x = mean.unsqueeze(-1) + torch.exp(log_std).unsqueeze(-1) * nodes
    return 0.5 + HALF_LOG_TWO_PI + log_std + (tanh_log_jacobian(x) * weights).sum(-1)


def truncated_normal_sample(mean: Tensor, std: Tensor, noise: Tensor) -> Tensor:
    """Reparametrised sample of a normal truncated to [-1, 1], by the inverse of the distribution function.

    The quantile is taken from the smaller of the two tails, which float32 resolves. Gradients are those of the
    quantile, written out (Figurnov et al. 2018, "Implicit Reparameterization Gradients",
    https://arxiv.org/abs/1805.08498, equation 5): finite everywhere, which the inverse error function's are not.

    Args:
        mean: `[..., A]` before truncation, in [-1, 1].
        std: `[..., A]` before truncation.
        noise: `[..., A]` uniform draws in [0, 1).

    Returns:
        `[..., A]`, clipped to `1 - 1e-6` in magnitude without effect on the gradient.
    """
    low, high = -(1.0 + mean.detach()) / std.detach(), (1.0 - mean.detach()) / std.detach()
    below, above = _tail(low), _tail(-high)
    inside = 1.0 - below - above
    left, right = below + noise * inside, above + (1.0 - noise) * inside
    tail = torch.special.ndtri(torch.minimum(left, right).clamp(min=SMALLEST_TAIL))
    score = torch.minimum(torch.maximum(torch.where(left <= right, tail, -tail), low), high)
    from_low = (1.0 - noise) * torch.exp(0.5 * (score.square() - low.square()))
    from_high = noise * torch.exp(0.5 * (score.square() - high.square()))
    by_mean = 1.0 - from_low - from_high
    by_std = score - from_low * low - from_high * high
    sample = (mean.detach() + std.detach() * score).clamp(-ACTION_BOUND, ACTION_BOUND)
    return sample + (mean - mean.detach()) * by_mean + (std - std.detach()) * by_std


def truncated_normal_log_prob(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Elementwise log-density at `x` in [-1, 1] of a normal truncated to [-1, 1]; all `[..., A]`, mean in [-1, 1]."""
    inside = 1.0 - _tail(-(1.0 + mean) / std) - _tail(-(1.0 - mean) / std)
    return normal_log_prob(x, mean, torch.log(std)) - torch.log(inside)


def truncated_normal_entropy(mean: Tensor, std: Tensor) -> Tensor:
    """Entropy per dimension of a normal truncated to [-1, 1], in nats; all `[..., A]`, mean in [-1, 1]."""
    low, high = -(1.0 + mean) / std, (1.0 - mean) / std
    inside = 1.0 - _tail(low) - _tail(-high)
    ends = (low * _density(low) - high * _density(high)) / (2.0 * inside)
    return 0.5 + HALF_LOG_TWO_PI + torch.log(std * inside) + ends


def _tail(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-x * math.sqrt(0.5))  # of a standard normal, below x: precise where it is small


def _density(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x.square() - HALF_LOG_TWO_PI)
