"""Trajectories that a world model imagines: their noise, and what values and rewards along them are about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.networks.value_heads import Head

ValueOf = Literal["arrival", "future"]


class ImaginationNoise(NamedTuple):
    """All randomness of one round of imagination.

    Attributes:
        latent: `[H, N, ...]` draws for the prior.
        action: `[H, N, ...]` draws for the policy.
    """

    latent: Tensor
    action: Tensor


class Course(NamedTuple):
    """Rewards and discounts behind the states `0 .. H - 1` of a trajectory, with gradients where they are recorded.

    Attributes:
        reward: `[H, N]` first reward of each state's return.
        discount: `[H, N]` of what follows that reward.
        weight: `[H, N]` chance that a step is still part of the episode, discounted, without gradients.
        lead: number of states from that of an action to the first whose return the action decides.
    """

    reward: Tensor
    discount: Tensor
    weight: Tensor
    lead: int


class Imagined(NamedTuple):
    """All that the critic learns from, without gradients.

    Attributes:
        features: `[H + 1, N, D]`.
        reward: `[H, N]` first reward of each state's return.
        discount: `[H, N]` of what follows that reward.
        target: `[H, N]` lambda returns.
        slow_value: `[H, N]` of the slow critic.
        weight: `[H, N]` chance that a step is still part of the episode, discounted.
    """

    features: Tensor
    reward: Tensor
    discount: Tensor
    target: Tensor
    slow_value: Tensor
    weight: Tensor


def course(
    value_of: ValueOf,
    features: Tensor,
    actions: Tensor,
    first_discount: Tensor,
    reward: Callable[[Tensor, Tensor], Tensor],
    discount: Callable[[Tensor], Tensor],
) -> Course:
    """Rewards, discounts and weights of a trajectory of `H` actions.

    The second version's value of a state is of the reward of arriving there and of all later ones, so that the return
    of an action is that of the next state. The third version's is of what comes after the state alone, and the state's
    own discount weighs it: where the model takes an episode to have ended, nothing is learned.

    Args:
        value_of: `arrival` or `future`, the one or the other.
        features: `[H + 1, N, D]`.
        actions: `[H, N, A]`.
        first_discount: `[N]` discount of what follows the first state, as it was recorded; `arrival` alone needs it.
        reward: function that gives the reward `[T, N]` of arriving at features `[T, N, D]`, where actions `[T, N, A]`
            are taken.
        discount: function that gives the discount `[T, N]` after features `[T, N, D]`.
    """
    if value_of == "arrival":
        rewards = reward(features[:-1], actions)
        discounts = torch.cat([first_discount.unsqueeze(0), discount(features[1:-1])])
        before = torch.cat([torch.ones_like(discounts[:1]), discounts[:-1]])
        return Course(rewards, discounts, torch.cumprod(before, 0).detach(), lead=1)
    # At the last state no action is taken.
    rewards = reward(features, F.pad(actions, (0, 0, 0, 0, 0, 1)))[1:]
    discounts = discount(features)
    return Course(rewards, discounts[1:], torch.cumprod(discounts[:-1], 0).detach(), lead=0)


def values(critic: Head, features: Tensor) -> Tensor:
    """Values of features `[H, N, D]`, `[H, N]`; their gradient, if one is recorded, is with respect to features alone.

    It is taken at once, as critics may be rescaled in place before the values are used.
    """

    def value(x: Tensor) -> Tensor:
        return by_step(lambda y: critic.mean(critic(y)), x)

    if not torch.is_grad_enabled():
        return value(features)
    found = value(features)
    (slope,) = torch.autograd.grad(found.sum(), features)
    return found.detach() + ((features - features.detach()) * slope).sum(-1)


def by_step(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """`function` of `[H, N, ...]` inputs: step by step on a CPU, where large temporaries cost more than small calls."""
    if inputs[0].is_cuda or torch.compiler.is_compiling():
        return function(*inputs)
    return torch.stack([function(*step) for step in zip(*inputs, strict=True)])
