"""How well an actor-critic fits held-out rows, whatever the kind of its actions."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from modules.agent.action_kinds import ActionKind
from modules.batch import Transition
from modules.functional.held_out import critic_errors
from modules.networks.policies import StackedPolicy
from modules.networks.trunks import Ensemble


def held_out_fit(
    kind: ActionKind,
    policy: StackedPolicy,
    critics: Ensemble,
    target_critics: Ensemble,
    rows: Transition,
    backup: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """`[M]` errors of critics and policy, at the policy's most likely actions.

    Args:
        kind: kind of the actions.
        policy: the policy.
        critics: both critics.
        target_critics: those that the next value is of.
        rows: `[M, B, ...]` held-out rows.
        backup: `[M, B]` lesser values of the next actions to the targets of the critics.
    """
    likeliest, next_likeliest = (kind.as_played(policy.likeliest(x)) for x in (rows.observation, rows.next_observation))
    target = backup(kind.least_value(target_critics, rows.next_observation, next_likeliest))
    (value,) = kind.values(critics, [(rows.observation, kind.as_played(rows.action))])
    (policy_value,) = kind.values(critics, [(rows.observation, likeliest)])
    return {
        **critic_errors(value, target, policy_value),
        **kind.policy_errors(rows.action, *policy(rows.observation)),
    }
