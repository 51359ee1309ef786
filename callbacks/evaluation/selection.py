"""The judgement of policies by recorded episodes alone, from their fitted values to the choice of one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from modules.agent.candidates import Candidates, Member
from modules.agent.policy_population import PolicyPopulation
from modules.agent.warm_start import TwoPhases
from modules.algorithms.behavior_cloning import BehaviorCloning
from modules.algorithms.fitted_q import FittedValues
from modules.batch import Episodes
from modules.functional.choosing import Choice, Interval, choose, interval_of
from modules.functional.policy_evaluation import discounted_returns, lstd_losses, lstd_tournament

ROWS = 2048
"""Rows that all policies and their critics pass at once."""

OWN, FITTED = "own critics", "fitted values"


@dataclass(frozen=True)
class Judged:
    """One policy; values are discounted, in the units of the recorded rewards.

    Attributes:
        name: name among the candidates.
        member: name among the members of its agent, empty where that has one alone.
        checkpoint: file that holds it.
        algorithm: class of its agent.
        hyperparameter: name of what differs between the members of its agent, empty where only seeds do.
        setting: value of that.
        is_clone: whether it only imitates the data.
        value: fitted value at the first states of held-out episodes, mean over seeds and states.
        low: lower end of its 95% interval.
        high: upper end.
        gain: value above that of the data's behaviour, in percent of the latter's size; None where that is 0.
        tournament: the same value by the function that wins a tournament among the fitted ones and its own critics.
        bellman_error: root of the mean squared temporal-difference error at held-out rows.
        advantage_gap: mean of `f(s, pi(s)) - f(s, a)` at held-out rows.
        gap_source: whose `f` that is.
        distance: root of the mean squared distance of its actions from the recorded ones, per dimension and in
            half-widths of the action's range; of numbered actions the share that differs.
        log_likelihood: mean log-probability of the recorded actions in nats; None of a deterministic policy.
        over_clone: value above that of the policy that the same member had cloned, where that is a candidate, too.
        over_clone_low: lower end of the 95% interval of this paired difference.
    """

    name: str
    member: str
    checkpoint: str
    algorithm: str
    hyperparameter: str
    setting: float
    is_clone: bool
    value: float
    low: float
    high: float
    gain: float | None
    tournament: float
    bellman_error: float
    advantage_gap: float
    gap_source: str
    distance: float
    log_likelihood: float | None
    over_clone: float | None = None
    over_clone_low: float | None = None


@dataclass(frozen=True)
class Selection:
    """The judgement of all policies.

    Attributes:
        candidates: `K` of them.
        diverged: names of members that are not finite, and were left out.
        choice: positions of the chosen, the best and the safe one, with the margins.
        tournament_choice: position of the one whose value by tournament is the highest.
        data: fitted value of the data's behaviour.
        data_return: mean undiscounted return of the held-out episodes.
        data_discounted: mean discounted return of the held-out episodes, as far as they were recorded.
        held_out_episodes: number of held-out episodes.
        updates: updates of the fitted values.
        curve: updates and held-out error of each look at them.
        about: settings, for files.
    """

    candidates: list[Judged]
    diverged: list[str]
    choice: Choice
    tournament_choice: int
    data: Interval
    data_return: float
    data_discounted: float
    held_out_episodes: int
    updates: int
    curve: list[tuple[int, float]]
    about: dict[str, Any]

    @property
    def chosen(self) -> Judged:
        """The policy to take."""
        return self.candidates[self.choice.chosen]

    @property
    def fell_back(self) -> bool:
        """Whether the safe policy is taken although another one has the highest lower bound."""
        return self.choice.chosen != self.choice.best

    @property
    def promising(self) -> list[int]:
        """Positions of the candidates, the one with the highest lower bound first."""
        return sorted(range(len(self.candidates)), key=lambda k: self.candidates[k].low, reverse=True)


class Trained(NamedTuple):
    """How an agent was trained, as far as its critics' units tell.

    Attributes:
        name: name of the agent among the candidates, empty where it is the only one.
        checkpoint: file that holds it.
        reward_scale: factor of the rewards that it learned from.
        reward_shift: shift of these.
    """

    name: str
    checkpoint: str
    reward_scale: float = 1.0
    reward_shift: float = 0.0


class _Seen(NamedTuple):
    """Per policy and held-out row, `[K, n]` each.

    That is the squared distance of its action, or whether it differs, the log-probability of the recorded one, and
    values of its own critics at the recorded action, at its own, and at its own in what followed.
    """

    distance: Tensor
    log_prob: Tensor
    own: Tensor
    own_chosen: Tensor
    own_next: Tensor


def judge(
    candidates: Candidates,
    trained: Sequence[Trained],
    values: FittedValues,
    held_out: Episodes,
    discount: float,
    about: dict[str, Any],
) -> Selection:
    """Everything that held-out episodes say about the candidates, and which of them to take.

    Args:
        candidates: policies, of which `trained` tells of each agent, and `values` the fitted values of this `discount`.
        held_out: the episodes that these were judged on.
        about: settings, for files.

    Raises:
        ValueError: fitted values are not finite.
    """
    estimates = values.initial.double().cpu().numpy()
    if not np.isfinite(estimates).all():
        raise ValueError("the fitted values are not finite; lower fqe.lr")
    # Each policy at the held-out rows, the choice, and the second opinion.
    seen = _look(candidates, trained, values, held_out, discount)
    distance = seen.distance.mean(-1).pow(1.0 if candidates.units.discrete else 0.5).tolist()
    clones = [k for k, m in enumerate(candidates.members) if _is_clone(candidates.agents[m.agent])]
    choice, data = choose(estimates[:, :-1], _safe(estimates, clones, distance)), interval_of(estimates[:, -1])
    tournament = _by_tournament(candidates, trained, values, seen, held_out, discount)
    rows = []
    for k, member in enumerate(candidates.members):
        (gap, source), found = _gap(values, seen, k), choice.values[k]
        rows.append(Judged(
            **_identity(candidates, trained, member),
            is_clone=k in clones,
            value=found.mean,
            low=found.low,
            high=found.high,
            gain=100.0 * (found.mean - data.mean) / abs(data.mean) if data.mean else None,
            tournament=tournament[k],
            bellman_error=float(values.bellman_error[:, k].mean()),
            advantage_gap=gap,
            gap_source=source,
            distance=distance[k],
            log_likelihood=_finite(float(seen.log_prob[k].mean())),
            **_over_clone(candidates, trained, k, clones, estimates),
        ))  # fmt: skip
    reward, length = held_out.steps.reward.double(), held_out.length
    return Selection(
        candidates=rows,
        diverged=[_identity(candidates, trained, member)["name"] for member in candidates.diverged],
        choice=choice,
        tournament_choice=int(np.argmax(tournament)),
        data=data,
        data_return=float(reward.sum()) / len(length),
        data_discounted=float(discounted_returns(reward, length, discount)[held_out.first].mean()),
        held_out_episodes=len(length),
        updates=values.updates,
        curve=values.curve,
        about=about,
    )


def _safe(estimates: np.ndarray, clones: list[int], distance: list[float]) -> int:
    """The fallback: the best clone, for estimates hold where the data are; without any the nearest to the data."""
    if clones:
        return max(clones, key=lambda k: interval_of(estimates[:, k]).low)
    return min(range(len(distance)), key=distance.__getitem__)


def _identity(candidates: Candidates, trained: Sequence[Trained], member: Member) -> dict[str, Any]:
    """The fields of `Judged` that say which policy it is."""
    of = trained[member.agent]
    return {
        "name": " ".join(filter(None, (of.name, member.name))) or "policy",
        "member": member.name,
        "checkpoint": of.checkpoint,
        "algorithm": type(candidates.agents[member.agent]).__name__,
        "hyperparameter": member.hyperparameter,
        "setting": member.value,
    }


def _gap(values: FittedValues, seen: _Seen, k: int) -> tuple[float, str]:
    """Mean advantage of a policy's actions over the recorded ones, and whose."""
    if bool(seen.own[k].isfinite().all()):
        return float((seen.own_chosen[k] - seen.own[k]).mean()), OWN
    return float(values.gap[:, k].mean()), FITTED


def _is_clone(agent: PolicyPopulation) -> bool:
    """Whether an agent's policies only imitate: it is made for that, or its warm start is not over."""
    return isinstance(agent, BehaviorCloning) or (isinstance(agent, TwoPhases) and agent.cloned)


def _over_clone(
    candidates: Candidates, trained: Sequence[Trained], k: int, clones: Sequence[int], estimates: np.ndarray
) -> dict[str, Any]:
    """The fields of `Judged` that hold it against the cloned policy of the same run and member, if that is there."""
    mine = candidates.members[k]
    folder = Path(trained[mine.agent].checkpoint).parent
    for other in () if k in clones else clones:
        member = candidates.members[other]
        if member.name == mine.name and Path(trained[member.agent].checkpoint).parent == folder:
            over = interval_of(estimates[:, k] - estimates[:, other])
            return {"over_clone": over.mean, "over_clone_low": over.low}
    return {}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _look(
    candidates: Candidates, trained: Sequence[Trained], values: FittedValues, held_out: Episodes, discount: float
) -> _Seen:
    """Every policy at the held-out rows at which the values were judged."""
    steps, parts = held_out.steps, []
    for rows in values.rows.cpu().split(ROWS):
        now, ahead = (x[rows].to(values.rows.device) for x in (steps.observation, steps.next_observation))
        recorded = candidates.units.learned(steps.action[rows].to(values.rows.device))
        everyone = recorded.expand(len(candidates), *recorded.shape)
        chosen = candidates.likeliest(now)
        apart = chosen != everyone if candidates.units.discrete else (chosen - everyone).square().mean(-1)
        own = [(now, everyone), (now, chosen), (ahead, candidates.likeliest(ahead))]
        critics = [_unscaled(candidates, trained, candidates.critics(*query), discount) for query in own]
        parts.append(_Seen(apart.float(), candidates.log_prob(now, recorded), *critics))
    return _Seen(*(torch.cat(columns, -1) for columns in zip(*parts, strict=True)))


def _unscaled(candidates: Candidates, trained: Sequence[Trained], value: Tensor, discount: float) -> Tensor:
    """`[K, B]` values of the members' critics in the units of the recorded rewards.

    A shift of the rewards is taken out as if no episode ended: after one it is not exact.
    """
    of = [trained[member.agent] for member in candidates.members]
    scale = value.new_tensor([t.reward_scale for t in of]).unsqueeze(-1)
    shift = value.new_tensor([t.reward_shift / (1.0 - discount) if t.reward_shift else 0.0 for t in of])
    return (value - shift.unsqueeze(-1)) / scale


def _by_tournament(
    candidates: Candidates,
    trained: Sequence[Trained],
    values: FittedValues,
    seen: _Seen,
    held_out: Episodes,
    discount: float,
) -> list[float]:
    """`K` values at the first states, each by the function of its policy that wins the tournament.

    The fitted functions take part, and the member's own critics if they have the same discount.
    """
    start = held_out.steps.observation[held_out.first].to(values.rows.device)
    parts = [candidates.critics(part, candidates.likeliest(part)) for part in start.split(ROWS)]
    own_initial = _unscaled(candidates, trained, torch.cat(parts, -1), discount).mean(-1)
    found = []
    for k, member in enumerate(candidates.members):
        comparable = getattr(candidates.agents[member.agent], "discount", discount) == discount
        own, own_next = (x[k] if comparable else torch.full_like(x[k], math.nan) for x in (seen.own, seen.own_next))
        value = torch.cat([values.value[:, k], own.unsqueeze(0)])
        following = torch.cat([values.next_value[:, k], own_next.unsqueeze(0)])
        winner = lstd_tournament(lstd_losses(value, following, values.reward, values.discount))
        initial = [*values.initial[:, k].mean(-1).tolist(), float(own_initial[k])]
        found.append(initial[winner])
    return found
