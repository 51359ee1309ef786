"""Fitted Q evaluation: what recorded data say about policies that did not record them, of many policies at once.

Source: Le, Voloshin & Yue 2019, "Batch Policy Learning under Constraints" (https://arxiv.org/abs/1903.08738), and Paine
et al. 2020, "Hyperparameter Selection for Offline Reinforcement Learning" (https://arxiv.org/abs/2007.09055), who rank
policies by the estimate at the first states of episodes. A value function of a fixed policy learns from its own
estimate of what follows, `Q(s, a) <- r + gamma Q'(s', pi(s'))`, with targets of a copy that follows slowly.

`K` policies and the data's own behaviour, whose action at s' is the recorded one, are evaluated with `S` seeds each:
`S * (K + 1)` networks along the first axis of every weight. Of one seed all start alike and see the same rows, so that
differences between policies are paired. Targets are clipped to what rewards of the recorded size can sum to.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from modules.agent.candidates import Policies
from modules.agent.descent import descend, make_adam
from modules.agent.plateau import Plateau
from modules.agent.warm_start import SETTLED, settling_updates
from modules.arguments.checks import check_group, check_positive, check_ranges, check_sizes, check_widths
from modules.batch import Episodes
from modules.functional.pessimism import bellman_backup
from modules.functional.policy_evaluation import discounted_returns, value_range
from modules.functional.returns import discount_unless_terminal
from modules.networks.ensemble import follow, torch_default
from modules.networks.trunks import Ensemble, make_ensemble, values_of

LOOKS, JUDGED, CHUNK = 1024, 20_000, 512
"""Most held-out rows of a look at the error, of the verdict at the end, and of what passes at once there."""


@dataclass(frozen=True)
class Fitting:
    """How the value functions are fitted.

    Args:
        seeds: value functions per policy, each with own initial weights and minibatches.
        updates: most updates; the fit ends before, when the held-out error has not improved for `patience` looks.
        batch_size: rows per update and seed; as many as there are, or more, means all rows in each.
        hidden: widths of the hidden layers, by default the policies'; an empty list makes linear functions, of vectors
            alone: images are encoded to the first of the widths.
        layer_norm: whether the hidden layers are normalised, which keeps values bounded at actions unlike the data's.
        lr: Adam learning rate.
        target_rate: share of the functions that moves into their targets at each update. No look counts before
            `5 / (target_rate * (1 - discount))` updates: values have not arrived before. Null is 0.05, or so much more
            that this is half of `updates` at most.
        look_every: updates from one look at the held-out error to the next.
        patience: looks in a row without a new best one that end the fit; the functions of the best look are kept.

    Raises:
        ValueError: a field is of another type or outside its range; it is named as `fqe.seeds` and so on.
    """

    seeds: int = 4
    updates: int = 20_000
    batch_size: int = 256
    hidden: tuple[int, ...] | None = None
    layer_norm: bool = True
    lr: float = 3e-4
    target_rate: float | None = None
    look_every: int = 500
    patience: int = 5

    def __post_init__(self) -> None:
        """Refuse what is no size, rate or width."""
        check_group("fqe", self)
        sizes = ("seeds", "updates", "batch_size", "look_every", "patience")
        check_sizes(**{f"fqe.{name}": getattr(self, name) for name in sizes})
        check_widths(**{"fqe.hidden": self.hidden or ()})
        check_ranges(("fqe.lr", self.lr, 0.0, 1e3))
        if self.target_rate is not None:
            check_positive(**{"fqe.target_rate": self.target_rate})
            check_ranges(("fqe.target_rate", self.target_rate, 0.0, 1.0))

    def rate(self, discount: float) -> float:
        """`target_rate`, or the one that null means for values of this discount."""
        soon = 2.0 * SETTLED / (self.updates * max(1.0 - discount, 1e-9))
        return min(1.0, max(0.05, soon)) if self.target_rate is None else self.target_rate


class FittedValues(NamedTuple):
    """Findings about `K` policies and, as the last of `K + 1`, of the data's behaviour, by `S` seeds each.

    Attributes:
        initial: `[S, K + 1, E]` value of the first states of the held-out episodes, in the reward's units.
        bellman_error: `[S, K + 1]` root of the mean squared temporal-difference error at held-out rows.
        gap: `[S, K + 1]` mean of `Q(s, pi(s)) - Q(s, a)` at held-out rows; 0 of the data.
        rows: `[n]` int64 held-out rows of the next four.
        value: `[S, K + 1, n]` value of the recorded states and actions.
        next_value: `[S, K + 1, n]` value of what followed, at the policy's action.
        reward: `[n]` recorded rewards.
        discount: `[n]` discount of what follows, 0 after a terminal state.
        curve: updates and held-out error, geometric mean over all functions, of every look that counted.
        updates: updates whose functions these are.
    """

    initial: Tensor
    bellman_error: Tensor
    gap: Tensor
    rows: Tensor
    value: Tensor
    next_value: Tensor
    reward: Tensor
    discount: Tensor
    curve: list[tuple[int, float]]
    updates: int


class _Rows(NamedTuple):
    """Columns of whole episodes on the device; `followed` rows have a `next_action` that was recorded, or need none."""

    observation: Tensor
    action: Tensor
    reward: Tensor
    next_observation: Tensor
    next_action: Tensor
    discount: Tensor
    followed: Tensor

    def at(self, rows: Tensor) -> _Rows:
        return _Rows(*(column[rows] for column in self))


def fitted_q_values(
    policies: Policies,
    train: Episodes,
    held_out: Episodes,
    discount: float,
    fitting: Fitting = Fitting(),
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] = lambda update, updates: None,
) -> FittedValues:
    """Evaluate all policies from recorded episodes, without the environment.

    `modules.agent.candidates.Candidates(agents)` makes policies of agents, and
    `datamodules.recorded.whole_episodes.split(dataset, 0.2, seed)` training and held-out episodes of a dataset:

        candidates = Candidates([Agent.restored(read_checkpoint(path, "cpu"), path) for path in paths])
        train, held_out = split(OfflineDataModule(source).dataset, 0.2, seed=0)
        values = fitted_q_values(candidates, train, held_out, discount=0.99)
        values.initial.mean((0, 2))[:-1]   # one estimate per policy of `candidates.names`; the last is the data's

    Args:
        policies: the policies, on `device`.
        train: episodes that the functions learn from, in the environment's units and with unscaled rewards.
        held_out: episodes that they are judged on.
        discount: discount factor gamma per step.
        fitting: how they learn.
        seed: seed of the first of them; the same seed gives the same numbers on the same device.
        device: device of the policies and of the functions.
        progress: called with updates done and the most there may be.

    Raises:
        ValueError: there is no row, the values cannot settle within so many updates, or images have no hidden width.
    """
    if not len(train.steps.reward) or not len(held_out.steps.reward):
        raise ValueError("fitted Q evaluation needs rows to learn from and rows to judge by; there are none of one")
    rate = fitting.rate(discount)
    settled = settling_updates(rate, discount)
    if fitting.updates < settled:
        others = "raise one of the two" if rate < 1.0 else "raise it, or lower the discount"
        raise ValueError(
            f"fqe.updates: values of discount {discount:g} settle after {settled:,} updates at fqe.target_rate "
            f"{rate:g}, got {fitting.updates:,}; {others}"
        )
    # Everything on the device; what is looked at is spread evenly over the held-out rows.
    estimator = FittedQ(policies, train, discount, fitting, seed, device)
    judged = _columns(policies, held_out, discount, device)
    spread = _evenly(len(judged.reward), JUDGED).to(device)
    looked = judged.at(_evenly(len(judged.reward), LOOKS).to(device))
    best, updates, curve = _fit(estimator, looked, settled, progress)
    return estimator.verdict(best, judged.at(spread), spread, held_out)._replace(curve=curve, updates=updates)


def _fit(
    estimator: FittedQ, looked: _Rows, settled: int, progress: Callable[[int, int], None]
) -> tuple[Ensemble, int, list[tuple[int, float]]]:
    """Update until looks, which count once values have arrived, end it: functions and update of the best, all looks."""
    fitting = estimator.fitting
    plateau, curve = Plateau(fitting.patience), []
    best, found = estimator.target, 0
    for update in range(1, fitting.updates + 1):
        estimator.update()
        if update < fitting.updates and update % fitting.look_every:
            continue
        progress(update, fitting.updates)
        if update < settled:
            continue
        error = float(estimator.errors(estimator.target, looked).clamp_min(1e-30).log().mean().exp())
        curve.append((update, error))
        better, over = plateau.look(error, update)
        if better or not found:
            best, found = copy.deepcopy(estimator.target), update
        if over:
            break
    return best, found, curve


class FittedQ:
    """`S * (K + 1)` value functions of fixed policies that learn from recorded episodes; seed-major.

    The arguments are those of `fitted_q_values`.
    """

    def __init__(
        self,
        policies: Policies,
        train: Episodes,
        discount: float,
        fitting: Fitting,
        seed: int,
        device: str | torch.device,
    ) -> None:
        self.policies = policies
        self.fitting = fitting
        self.rate = fitting.rate(discount)
        self.rows = _columns(policies, train, discount, device)
        self.limits = value_range(self.rows.reward, discount)
        # The networks learn values as deviations from the recorded returns, in units of their spread.
        returns = discounted_returns(train.steps.reward.double(), train.length, discount)
        self.offset = float(returns.mean())
        self.scale = max(float(returns.std(correction=0)), 1e-6 * (1.0 + abs(self.offset)))
        self.generator = torch.Generator().manual_seed(seed)
        members, units = len(policies) + 1, policies.units
        width = policies.normalize(self.rows.observation[:1]).shape[-1]
        d_in, d_out = (width, units.width) if units.discrete else (width + units.width, 1)
        # A generator per network: those of one seed draw the same weights.
        draws = [torch.Generator().manual_seed(seed * 10_000 + s) for s in range(fitting.seeds) for _ in range(members)]
        hidden = policies.hidden if fitting.hidden is None else fitting.hidden
        if policies.front is not None and not hidden:
            raise ValueError(
                "fqe.hidden is empty, and images are encoded to the first of its widths: give one at least"
            )
        sizes = (fitting.seeds * members, d_in, hidden, d_out)
        self.critic = make_ensemble(*sizes, torch_default, draws, policies.front, fitting.layer_norm).to(device)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.optimizer = make_adam(self.critic.parameters(), fitting.lr)

    def update(self) -> Tensor:
        """One step of Adam of all functions, then of their targets; returns the squared errors `[S, K + 1]`."""
        count, size = len(self.rows.reward), (self.fitting.seeds, self.fitting.batch_size)
        if size[1] >= count:
            drawn = torch.arange(count).expand(size[0], -1)
        else:
            drawn = torch.randint(count, size, generator=self.generator)
        rows = self.rows.at(drawn.to(self.rows.reward.device))
        with torch.no_grad():
            target = (self.backup(self.target, rows) - self.offset) / self.scale
        value = (self.values(self.critic, rows.observation, self._recorded(rows)) - self.offset) / self.scale
        loss = self._mean(torch.square(value - target), rows.followed)
        descend(self.optimizer, loss.sum())
        follow(self.target, self.critic, self.rate)
        return loss.detach()

    def backup(self, critic: Ensemble, rows: _Rows) -> Tensor:
        """`[S, K + 1, B]` reward and discounted value of what followed, at each policy's action, within its limits."""
        ahead = self.values(critic, rows.next_observation, self.actions(rows.next_observation, rows.next_action))
        return bellman_backup(rows.reward.unsqueeze(1), rows.discount.unsqueeze(1), ahead).clamp(*self.limits)

    def actions(self, observation: Tensor, recorded: Tensor) -> Tensor:
        """`[S, B, D]` raw observations to the actions of all policies and the recorded ones, `[S, K + 1, B, ...]`."""
        chosen = self.policies.likeliest(observation.flatten(0, 1)).unflatten(1, observation.shape[:2])
        return torch.cat([chosen.transpose(0, 1), recorded.unsqueeze(1)], 1)

    def values(self, critic: Ensemble, observation: Tensor, action: Tensor) -> Tensor:
        """`[S, K + 1, B]` values of actions `[S, K + 1, B, ...]` in raw observations `[S, B, D]`."""
        seeds, members = action.shape[:2]
        seen = self.policies.normalize(observation).unsqueeze(1).expand(-1, members, -1, -1)
        if self.policies.units.discrete:
            value = values_of(critic(seen.flatten(0, 1)).unflatten(0, (seeds, members)), action)
        else:
            value = critic(torch.cat([seen, action], -1).flatten(0, 1)).squeeze(-1).unflatten(0, (seeds, members))
        return self.offset + self.scale * value

    @torch.no_grad()
    def errors(self, critic: Ensemble, rows: _Rows) -> Tensor:
        """`[S, K + 1]` mean squared temporal-difference error at `[B]` rows, in the reward's units squared."""
        shared = self._shared(rows)
        value = self.values(critic, shared.observation, self._recorded(shared))
        return self._mean(torch.square(value - self.backup(critic, shared)), shared.followed)

    @torch.no_grad()
    def verdict(self, critic: Ensemble, rows: _Rows, places: Tensor, held_out: Episodes) -> FittedValues:
        """Values of held-out rows, which lie at these places, and of the first states of the episodes."""
        parts = []
        for part in torch.arange(len(places), device=places.device).split(CHUNK):
            some = self._shared(rows.at(part))
            ahead = self.actions(some.next_observation, some.next_action)
            value = self.values(critic, some.observation, self._recorded(some))
            chosen = self.values(critic, some.observation, self.actions(some.observation, some.action))
            parts.append((value, self.values(critic, some.next_observation, ahead), chosen))
        value, next_value, chosen = (torch.cat(x, -1) for x in zip(*parts, strict=True))
        error = torch.square(value - bellman_backup(rows.reward, rows.discount, next_value))
        followed = rows.followed.expand(self.fitting.seeds, -1)
        # First states of the episodes.
        begun = []
        for first in held_out.first.split(CHUNK):
            start = held_out.steps.observation[first].to(places.device)
            start = start.expand(self.fitting.seeds, *start.shape)
            action = self.policies.units.learned(held_out.steps.action[first].to(places.device))
            acted = self.actions(start, action.expand(self.fitting.seeds, *action.shape))
            begun.append(self.values(critic, start, acted))
        root, gap = self._mean(error, followed).sqrt(), (chosen - value).mean(-1)
        first_values = torch.cat(begun, -1)
        return FittedValues(first_values, root, gap, places, value, next_value, rows.reward, rows.discount, [], 0)

    def _recorded(self, rows: _Rows) -> Tensor:
        """The recorded actions `[S, B, ...]`, for every function: `[S, K + 1, B, ...]`."""
        return rows.action.unsqueeze(1).expand(-1, len(self.policies) + 1, *rows.action.shape[1:])

    def _shared(self, rows: _Rows) -> _Rows:
        return _Rows(*(x.expand(self.fitting.seeds, *x.shape) for x in rows))

    def _mean(self, error: Tensor, followed: Tensor) -> Tensor:
        """`[S, K + 1]` means over the rows; for the data's behaviour, over those whose next action is known."""
        policies, data = error[:, :-1].mean(-1), error[:, -1] * followed
        return torch.cat([policies, (data.sum(-1) / followed.sum(-1).clamp_min(1)).unsqueeze(1)], 1)


def _columns(policies: Policies, episodes: Episodes, discount: float, device: str | torch.device) -> _Rows:
    """The columns of episodes on a device, with the action that was recorded behind each."""
    steps = type(episodes.steps)(*(x if x is None else x.to(device) for x in episodes.steps))  # type: ignore[arg-type]
    action = policies.units.learned(steps.action)
    followed = torch.ones_like(steps.terminated)
    last = episodes.last.to(device)
    followed[last] = steps.terminated[last]
    return _Rows(
        steps.observation, action, steps.reward, steps.next_observation, action.roll(-1, 0),
        discount_unless_terminal(discount, steps.terminated), followed,
    )  # fmt: skip


def _evenly(count: int, most: int) -> Tensor:
    """At most so many of `count` rows, spread evenly."""
    return torch.arange(0, count, max(1, math.ceil(count / most)))
