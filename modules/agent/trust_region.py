"""A trust region around a cloned policy: how far a policy that follows its critics may leave what was cloned.

Distances are between the choices that policies make, of continuous actions the most likely one and of numbered actions
all probabilities, in units of the spread of the data's actions around the cloned choice. The size of the region is held
by a multiplier of Lagrange, so that it depends neither on the scale of rewards nor on how steep the critics are. The
constraint is derived here, after TD3+BC's pull towards the data (Fujimoto & Gu 2021, https://arxiv.org/abs/2106.06860):
a critic knows nothing of actions that were never played, and a shift learned in frequent states moves rare ones more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from modules.agent.action_kinds import ActionKind
from modules.agent.plateau import Plateau, listed
from modules.agent.policy_population import PolicyPopulation
from modules.arguments.checks import check_group, check_ranges, check_sizes
from modules.batch import Transition
from modules.contracts import KnowsReturns
from modules.functional.headroom import headroom
from modules.networks.policies import StackedPolicy
from modules.networks.replicas import average_over_ranks

SMALLEST_SPREAD = 1e-3
"""Of the squared distance of the data's actions from the cloned choice: those of a deterministic policy have none."""

WEIGHTS = (-20.0, 14.0)
"""Range of the logarithm of the multiplier."""

LEAST_SHARE = 1 / 3
"""Of the radius, that is worth a game: with less to gain, what no critic can foresee weighs more."""


@dataclass(frozen=True)
class TrustRegion:
    """How far a policy may leave what it cloned, and beyond which distance it is not trusted any more.

    Args:
        radius: mean distance from the cloned policy that is allowed, over the data's states, in units of the spread of
            the data's actions; null leaves the policy free, as in the paper.
        order: order of that mean over states: 2 is the root mean square; the higher, the more it is a matter of those
            states where the policy has moved most, which are often rare ones, such as those that an episode starts in.
            It says nothing without a radius.
        headroom: spread of the recorded returns above their mean, as a share of it, from which on the whole radius is
            allowed; with less the radius is smaller. Null has the same radius for all data.
        lr: change of the logarithm of the multiplier per policy update, at most; it says nothing without a radius.
        limit: distance in the same units that a trusted policy keeps in 99% of the held-out states. Policies are judged
            where `warm_start.patience` keeps what was cloned.
        updates: updates of the game after which training ends, however long the cloning took; null plays until the
            trainer's own end. Critics that are pessimistic about a policy's first steps away from the data do not
            answer for all that follow.

    Raises:
        ValueError: a field is of another type or outside its range, or there is a headroom without a radius; the field
            is named as `trust.radius` and so on.
    """

    radius: float | None = None
    order: float = 2.0
    headroom: float | None = None
    lr: float = 0.01
    limit: float = 0.5
    updates: int | None = None

    def __post_init__(self) -> None:
        """Refuse what is no distance."""
        check_group("trust", self)
        check_ranges(
            ("trust.order", self.order, 2.0, 16.0), ("trust.lr", self.lr, 0.0, 1.0),
            ("trust.limit", self.limit, 0.0, 1e6),
        )  # fmt: skip
        if self.radius is not None:
            check_ranges(("trust.radius", self.radius, 1e-6, 1e6))
        if self.headroom is not None:
            check_ranges(("trust.headroom", self.headroom, 1e-3, 1e3))
            if self.radius is None:
                raise ValueError(
                    "trust.headroom would be ignored: it makes trust.radius smaller, and there is none; set "
                    "trust.radius, or trust.headroom to null"
                )
        if self.updates is not None:
            check_sizes(**{"trust.updates": self.updates})


class Tether(nn.Module):
    """Holds `M` members near what they cloned.

    Args:
        settings: size of the region and speed of the multiplier.
        members: number of members `M`.

    Attributes:
        radius: mean distance that is allowed on these data; null holds nothing.
        spread: `[M]` mean squared distance of held-out actions from the cloned choice.
        log_weight: `[M]` logarithm of the multiplier.
    """

    spread: Tensor
    log_weight: Tensor

    def __init__(self, settings: TrustRegion, members: int) -> None:
        super().__init__()
        self.radius = settings.radius
        self.order = settings.order
        self.lr = settings.lr
        self.register_buffer("spread", torch.ones(members))
        self.register_buffer("log_weight", torch.zeros(members))

    def measure(self, spread: Tensor) -> None:
        """Take note of the `[M]` mean squared distance of held-out actions from the cloned choice."""
        self.spread.copy_(spread.clamp(min=SMALLEST_SPREAD))

    def distance(self, choice: Tensor, cloned: Tensor) -> Tensor:
        """`[M, B]` squared distance of choices `[M, B, A]` from the cloned ones, in units of the spread."""
        return squared_distance(choice, cloned) / self.spread.unsqueeze(-1)

    def pull(self, choice: Tensor, cloned: Tensor) -> tuple[Tensor, Tensor]:
        """The penalty of a policy's choices `[M, B, A]`; the multiplier takes one step of dual ascent.

        The step is by the rows of all ranks, so that every rank has the same multiplier.

        Returns:
            `[M]` penalty to be added to what the policy descends; and the `[M]` mean distance, of the order of the
            settings, detached.
        """
        assert self.radius is not None, "nothing pulls without a radius"
        used = (self.distance(choice, cloned) / self.radius**2).pow(self.order / 2).mean(-1)  # share of what is allowed
        penalty = self.log_weight.exp() * used
        (share,) = average_over_ranks([used.detach()], [self.log_weight])
        self.log_weight.add_(self.lr * (share - 1.0).clamp(max=1.0)).clamp_(*WEIGHTS)
        return penalty, self.radius * used.detach().pow(1.0 / self.order)

    def departure(self, choice: Tensor, cloned: Tensor) -> Tensor:
        """`[M]` distance from the cloned choice that 99% of the states `[M, B, A]` keep, in units of the spread."""
        return torch.quantile(self.distance(choice, cloned).sqrt(), 0.99, dim=-1)


class Trust(NamedTuple):
    """Whether the values that an agent learned of its policy can be trusted, judged from recorded data alone.

    Attributes:
        trusted: whether they can.
        told: why, in one sentence without an end.
    """

    trusted: bool
    told: str


@runtime_checkable
class JudgesTrust(Protocol):
    """An agent that knows when its policy has left the data too far for its value to be trusted."""

    def judge(self, metrics: Mapping[str, Tensor]) -> Trust | None:
        """The verdict by the metrics of the last validation; None where there is none."""


def squared_distance(choice: Tensor, other: Tensor) -> Tensor:
    """Mean over the dimensions of an action of the squared difference, `[M, B, A] -> [M, B]`."""
    return (choice - other).square().mean(-1)


def without_patience(trust: TrustRegion) -> list[str]:
    """Arguments that are null where no rule ends the cloning: the rule's own, and those of the region that are set."""
    region = [f"trust.{name}" for name in ("radius", "headroom") if getattr(trust, name) is not None]
    return ["warm_start.patience", *region]


def check_trust_region(trust: TrustRegion, patience: int | None) -> None:
    """Refuse a region around a policy that is not kept.

    Raises:
        ValueError: there is a radius, and no rule that ends the cloning with the best policy.
    """
    if trust.radius is not None and patience is None:
        raise ValueError(
            "trust.radius is a distance from the best cloned policy, which is kept with warm_start.patience alone; set "
            f"warm_start.patience, or {listed(without_patience(trust)[1:])} to null"
        )


class Tethered(PolicyPopulation):
    """The part of a population of policies that knows what it cloned, and how far it is from that.

    Attributes:
        kind: how actions are played and compared.
        trust: how far the policy may leave what it cloned.
        tether: what holds it there, and measures how far it is; None without the rule that ends the cloning.
        cloned_actor: the best cloned policy; None as well.
        plateau: that rule.
        warm_starting: whether the policy is still being cloned.
        validated_at: update of the last validation, of which metrics are.
        worth_a_game: whether recorded returns leave something to gain over what is cloned.
    """

    kind: ActionKind
    trust: TrustRegion
    tether: Tether | None
    cloned_actor: StackedPolicy | None
    plateau: Plateau | None
    warm_starting: bool
    updates: int
    validated_at: int = -1
    worth_a_game: bool = True

    def judge(self, metrics: Mapping[str, Tensor]) -> Trust | None:
        """Whether every living member is near enough to what it cloned for its value to be trusted.

        Args:
            metrics: metrics of the last validation by name.

        Returns:
            None without a rule that ends the cloning, which keeps what was cloned, and in the game where the policy has
            learned since it was validated.
        """
        if self.plateau is None:
            return None
        if self.warm_starting:
            return Trust(True, "the policy is the cloned one")
        if self.validated_at != self.updates:
            return None
        limit = self.trust.limit
        departures = {name: float(metrics[key]) for name, key in self._held_out("departure") if key in metrics}
        living = {name: x for name, x in departures.items() if math.isfinite(x)}
        if not living:
            return None
        name, farthest = max(living.items(), key=lambda item: item[1])
        who = f"member {name}" if name else "the policy"
        told = f"{who} is within {farthest:.3g} spreads of the cloned one in 99% of held-out states (limit {limit:g})"
        return Trust(farthest <= limit, told)

    def size_region(self, data: object) -> None:
        """Make the region as large as the data allow, before any of them is learned from, or find none worth a game.

        Raises:
            ValueError: the size is a matter of recorded returns, and the data know none.
        """
        if self.tether is None or self.trust.radius is None or self.trust.headroom is None:
            return
        if not isinstance(data, KnowsReturns):
            raise ValueError(
                "trust.headroom is a share of the returns of recorded episodes, which these data do not know; set "
                "trust.headroom to null"
            )
        share = min(1.0, headroom(data.training_returns) / self.trust.headroom)
        self.worth_a_game = share >= LEAST_SHARE
        self.tether.radius = self.trust.radius * max(LEAST_SHARE, share)

    def _held_out(self, metric: str) -> Iterator[tuple[str, str]]:
        """Members' names, and the names of this metric of theirs on held-out data."""
        return ((name, "/".join(filter(None, ("validation", name, metric)))) for name in self.member_names)

    def _measure_spread(self, metrics: Mapping[str, Tensor]) -> None:
        """Take note of how far held-out actions are from the choices of what has been cloned so far."""
        assert self.tether is not None, "what is cloned is held against the data where it is kept"
        self.tether.measure(torch.stack([metrics[key].cpu().float() for _, key in self._held_out("spread")]))

    def _held_out_trust(self, rows: Transition, statistics: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """`[M]` distance of actions from the policy's choices, and in the game of these from the cloned ones."""
        if self.tether is None or self.cloned_actor is None:
            return {}
        choice = self.kind.choice(*statistics)
        spread = squared_distance(choice, self.kind.as_played(rows.action)).mean(-1)
        if self.warm_starting:
            return {"spread": spread}
        cloned = self.kind.choice(*self.cloned_actor(rows.observation))
        return {"spread": spread, "departure": self.tether.departure(choice, cloned)}

    def _pull_back(
        self, observation: Tensor, statistics: tuple[Tensor, ...]
    ) -> tuple[Tensor | float, dict[str, Tensor]]:
        """`[M]` that the policy pays for its distance from the cloned one, and metrics of it; 0 in the warm start."""
        if self.tether is None or self.cloned_actor is None or self.tether.radius is None or self.warm_starting:
            return 0.0, {}
        with torch.no_grad():
            cloned = self.kind.choice(*self.cloned_actor(observation))
        penalty, distance = self.tether.pull(self.kind.choice(*statistics), cloned)
        radius = torch.full_like(distance, self.tether.radius)
        return penalty, {"distance": distance, "trust_weight": self.tether.log_weight.exp(), "trust_radius": radius}
