"""How well actor and critics fit data that they did not learn from."""

from __future__ import annotations

from torch import Tensor

from modules.functional.distributions import tanh_normal_log_prob
from modules.functional.pessimism import relative_pessimism


def actor_critic_errors(
    value: Tensor, target: Tensor, policy_value: Tensor, action: Tensor, mean: Tensor, log_std: Tensor
) -> dict[str, Tensor]:
    """Errors of `C` critics and a squashed normal policy on `B` rows, one value per member.

    Args:
        value: `[C, M, B]` critics at the data's actions.
        target: `[M, B]` backup of the next value.
        policy_value: `[C, M, B]` critics at the policy's most likely actions.
        action: `[M, B, A]` of the data, in [-1, 1].
        mean: `[M, B, A]` of the policy, before squashing.
        log_std: `[M, B, A]`.

    Returns:
        `[M]` each: squared temporal-difference error, pessimism relative to the data, negative log-likelihood of the
        data's actions, and squared distance of the most likely action from them.
    """
    return {**critic_errors(value, target, policy_value), **policy_errors(action, mean, log_std)}


def critic_errors(value: Tensor, target: Tensor, policy_value: Tensor) -> dict[str, Tensor]:
    """Errors of `C` critics alone, with the arguments of `actor_critic_errors`.

    Returns:
        `[M]` each: squared temporal-difference error, and pessimism relative to the data.
    """
    return {
        "td_error": (value - target).square().mean((0, 2)),
        "pessimism": relative_pessimism(policy_value, value).mean((0, 2)),
    }


def policy_errors(action: Tensor, mean: Tensor, log_std: Tensor) -> dict[str, Tensor]:
    """Errors of a squashed normal policy alone, with the arguments of `actor_critic_errors`.

    Returns:
        `[M]` each: negative log-likelihood of the data's actions, and squared distance of the most likely action from
        them.
    """
    return {
        "negative_log_likelihood": -tanh_normal_log_prob(action, mean, log_std).sum(-1).mean(-1),
        "action_error": (mean.tanh() - action).square().sum(-1).mean(-1),
    }
