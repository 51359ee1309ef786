"""A floor under the entropy of policies, and the temperature that is learned to hold them above it.

Source: Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications" (https://arxiv.org/abs/1812.05905),
section 5. The log temperature is clamped, which no source does: without it the entropy could outgrow the critic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from modules.agent.action_kinds import ActionKind
from modules.agent.descent import descend, make_adam, reset_adam
from modules.arguments.checks import check_group, check_intervals, check_ranges
from modules.functional.soft_values import temperature_loss


@dataclass(frozen=True)
class EntropyFloor:
    """How wide a policy must stay, and where the weight of its entropy starts.

    Args:
        target: floor of the entropy in nats; `auto` is minus the action dimension, and of `n` numbered actions the
            `share` of `log n`; null is no floor: the temperature is 0, and the others say nothing.
        share: share of the largest entropy of numbered actions that `auto` stands for, from 0 to 1.
        reduction: the floor binds the `sum` over action dimensions as in the paper, or their `mean` as lightATAC
            computes it.
        initial_temperature: weight of the entropy at the start of each phase; it falls by a factor e in about
            `1 / lr` updates of Adam, so start lower where the policy learns as fast.
        log_temperature_range: clamp of the learned log temperature; without it the entropy could outgrow the critic.

    Raises:
        ValueError: a field is of another type, none of its choices, or outside its range; it is named as
            `entropy.initial_temperature` and so on.
    """

    target: float | Literal["auto"] | None = "auto"
    share: float = 0.1
    reduction: Literal["sum", "mean"] = "sum"
    initial_temperature: float = 1.0
    log_temperature_range: tuple[float, float] = (-10.0, 10.0)

    def __post_init__(self) -> None:
        """Refuse what no temperature could follow."""
        check_group("entropy", self)
        check_ranges(
            ("entropy.share", self.share, 0.0, 1.0),
            ("entropy.initial_temperature", self.initial_temperature, 1e-30, 1e30),
        )
        if self.target not in ("auto", None):
            check_ranges(("entropy.target", float(self.target), -1e12, 1e12))
        check_intervals(**{"entropy.log_temperature_range": self.log_temperature_range})

    def check_sum(self, algorithm: str) -> None:
        """Refuse another reduction, for an algorithm whose values count the entropy of whole actions."""
        if self.reduction != "sum":
            raise ValueError(
                f"entropy.reduction must be sum for {algorithm}, whose values count the entropy of whole actions, got "
                f"{self.reduction}"
            )


class Temperature:
    """Learns how much the entropy of each of `M` policies must weigh to stay above a floor.

    Args:
        floor: the floor, and where the temperature starts.
        members: number of policies `M`.
        kind: kind of the actions, which knows the floor that `auto` stands for and the largest entropy there is.
        lr: Adam learning rate.

    Raises:
        ValueError: the floor is above the largest entropy: the temperature would grow without end.

    Attributes:
        log_temperature: `[M]`, for the agent to register as its parameter.
        optimizer: optimiser for the agent to return from `configure_optimizers`.
    """

    def __init__(self, floor: EntropyFloor, members: int, kind: ActionKind, lr: float) -> None:
        largest = kind.largest_entropy(floor.reduction)
        if floor.target not in ("auto", None) and float(floor.target) > largest:
            raise ValueError(
                f"entropy.target: no policy of these actions has more than {largest:.4g} nats, got "
                f"{float(floor.target):g}; the temperature would grow without end: set it lower"
            )
        self.target = kind.automatic_floor(floor.share) if floor.target == "auto" else floor.target
        self.reduction = floor.reduction
        self.log_range = floor.log_temperature_range
        self.lr = lr
        self.initial = math.log(floor.initial_temperature)
        self.log_temperature = nn.Parameter(torch.full((members,), self.initial))
        self.optimizer = make_adam([self.log_temperature], lr)

    def reduce(self, log_prob: Tensor) -> Tensor:
        """Join log-probabilities per action dimension: `[..., A] -> [...]`."""
        return log_prob.sum(-1) if self.reduction == "sum" else log_prob.mean(-1)

    def update(self, entropy: Tensor) -> Tensor:
        """Take one step from the `[M]` entropies; returns the `[M]` temperatures, detached."""
        if self.target is None:
            return self.value()
        descend(self.optimizer, temperature_loss(self.log_temperature, entropy, self.target).sum())
        with torch.no_grad():
            self.log_temperature.clamp_(*self.log_range)
        return self.value()

    def value(self) -> Tensor:
        """`[M]` temperatures as they are, detached; 0 without a floor."""
        log_temperature = self.log_temperature.detach()
        return torch.zeros_like(log_temperature) if self.target is None else log_temperature.exp()

    @torch.no_grad()
    def restart(self) -> None:
        """Forget what was learned: the initial temperature, and an Adam without moments."""
        reset_adam(self.optimizer, self.lr)
        self.log_temperature.fill_(self.initial)
