"""Divergences and entropies of the distributions that latents have, and the balanced loss of two of them.

Letters: `G` independent groups of `K` classes, `D` independent dimensions. Everything is in nats, summed over groups or
dimensions, in the dtype that comes in: give float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from modules.functional.distributions import normal_entropy
from modules.functional.elementwise import log_softmax


def mix_uniform(logits: Tensor, share: float) -> Tensor:
    """Logits of `(1 - share) softmax(logits) + share / K`: no class becomes impossible.

    Source: Hafner et al. 2023, "Mastering Diverse Domains through World Models" (https://arxiv.org/abs/2301.04104),
    with a share of 0.01.

    Args:
        logits: `[..., K]`.
        share: share of the uniform distribution, in [0, 1); 0 leaves the logits as they are.

    Returns:
        `[..., K]`, log-probabilities unless the share is 0.
    """
    if share == 0.0:
        return logits
    log_p = log_softmax(logits)
    uniform = torch.full_like(log_p, math.log(share / logits.shape[-1]))
    return torch.logaddexp(log_p + math.log1p(-share), uniform)


def categorical_kl(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """`KL(p || q)` of categoricals, summed over groups: `[..., G, K]` both, to `[...]`."""
    log_p, log_q = log_softmax(p_logits), log_softmax(q_logits)
    return (log_p.exp() * (log_p - log_q)).sum((-2, -1))


def categorical_entropy(logits: Tensor) -> Tensor:
    """Entropy of categoricals, summed over groups: `[..., G, K]` to `[...]`."""
    log_p = log_softmax(logits)
    return -(log_p.exp() * log_p).sum((-2, -1))


def gaussian_kl(p_mean: Tensor, p_std: Tensor, q_mean: Tensor, q_std: Tensor) -> Tensor:
    """`KL(p || q)` of diagonal normals, summed over dimensions: `[..., D]` all, to `[...]`."""
    ratio = p_std / q_std
    distance = (p_mean - q_mean) / q_std
    return (0.5 * (ratio.square() + distance.square() - 1.0) - ratio.log()).sum(-1)


def gaussian_entropy(std: Tensor) -> Tensor:
    """Differential entropy of diagonal normals, summed over dimensions: `[..., D]` to `[...]`."""
    return normal_entropy(std.log()).sum(-1)


def balanced_kl(
    dynamic: Tensor,
    representation: Tensor,
    alpha: float | Tensor = 0.8,
    free_nats: float | Tensor = 0.0,
    per_step: bool = False,
) -> Tensor:
    """`alpha * dynamic + (1 - alpha) * representation`, averaged, each term no less than the free nats.

    Source: Hafner et al. 2021, "Mastering Atari with Discrete World Models" (https://arxiv.org/abs/2010.02193),
    Algorithm 2. A term at or below the free nats has no gradient, and both terms have the same value, so that both
    gradients vanish at once.

    Args:
        dynamic: `[...]` `KL(stop_gradient(posterior) || prior)`, which trains the prior.
        representation: `[...]` `KL(posterior || stop_gradient(prior))`, which trains the posterior.
        alpha: weight of the dynamic term, in [0, 1].
        free_nats: divergence that costs nothing, in nats; 0 for none.
        per_step: compare every entry with the free nats (DreamerV3), instead of the mean (DreamerV2's `free_avg`).

    Returns:
        Scalar.
    """
    terms = torch.stack([dynamic.flatten(), representation.flatten()])
    if not per_step:
        terms = terms.mean(1, keepdim=True)
    # `where`, not `clamp`: at equality `clamp` would let the gradient pass.
    prior, posterior = torch.where(terms > free_nats, terms, free_nats).mean(1)
    return alpha * prior + (1.0 - alpha) * posterior
