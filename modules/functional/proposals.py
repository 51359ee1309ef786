"""Actions drawn for the slots of a node, where there are more than a search could try (Hubert et al. 2021).

A search over drawn actions takes `(beta_hat / beta) * pi` for the policy's prior: `pi` is the policy, `beta` what
actions were drawn from, and `beta_hat`, `1 / K` for each draw, how often each was drawn. Drawn from the policy itself,
all slots have the same prior; the density of an action is in how often its like was drawn, and must not count twice.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from modules.functional.distributions import tanh_normal_sample


class Proposal(NamedTuple):
    """Drawn actions, for `Root` and `Step`.

    Attributes:
        actions: `[B, K]` numbers of actions, or `[B, K, D]`.
        logits: `[B, K]` of the prior over the slots.
    """

    actions: Tensor
    logits: Tensor


def sampled_logits(log_policy: Tensor, log_proposal: Tensor) -> Tensor:
    """Logits of the prior of drawn actions, by the logarithms `[B, K]` of their densities."""
    return log_policy - log_proposal


def gaussian_proposal(mean: Tensor, log_std: Tensor, noise: Tensor, widening: float | Tensor = 1.0) -> Proposal:
    """Actions in (-1, 1) of a tanh-squashed diagonal normal.

    Args:
        mean: `[B, D]`, before squashing.
        log_std: `[B, D]`.
        noise: `[B, K, D]` standard normal draws.
        widening: factor of the standard deviation that actions are drawn with, one for all or `[K]`, one of each slot.
    """
    wide = torch.as_tensor(widening, dtype=mean.dtype, device=mean.device)
    wide = wide.reshape(-1, 1) if wide.dim() else wide
    scaled = noise * wide  # in standard deviations of the policy
    actions, _ = tanh_normal_sample(mean.unsqueeze(1), log_std.unsqueeze(1), scaled)
    # The squashing and the policy's own deviation are in both densities. What is left is exactly 0 for a factor of 1.
    log_policy, log_proposal = -0.5 * scaled.square(), -0.5 * noise.square() - wide.log()
    return Proposal(actions, sampled_logits(log_policy, log_proposal).sum(-1))


def distinct_proposal(logits: Tensor, slots: int, noise: Tensor) -> Proposal:
    """Different numbered actions, drawn without replacement: the greatest logits with Gumbel noise (Kool et al. 2019).

    The prior is the policy's, over those that were drawn; with a slot for each action it is the policy.

    Args:
        logits: `[B, A]` of a policy; minus infinity for actions that may not be chosen.
        slots: `K`, no more than the `A` actions.
        noise: `[B, A]` Gumbel draws.

    Raises:
        ValueError: there are more slots than actions.
    """
    if slots > logits.shape[-1]:
        raise ValueError(f"{slots} slots cannot have different ones of {logits.shape[-1]} actions; take fewer slots")
    actions = (logits + noise).topk(slots, -1).indices
    return Proposal(actions, logits.log_softmax(-1).gather(-1, actions))
