"""A floor under the entropy of policies."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from modules.agent.descent import descend, make_adam, reset_adam


class EntropyFloor:
    """Learns how much the entropy of each of `M` policies must weigh to stay above a floor.

    Source: Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications" (https://arxiv.org/abs/1812.05905),
    section 5. The log temperature is clamped, which no source does: without it the entropy could outgrow the critic.

    Args:
        members: `M`.
        d_action: `A`.
        floor: in nats; `auto` is minus `A`, null is none: the temperature is 0.
        reduction: what the floor binds: the sum of the dimensions' entropies, or their mean.
        initial_temperature: at the start, and after `restart`.
        log_range: clamp of the log temperature.
        lr: Adam learning rate.

    Attributes:
        log_temperature: `[M]`, for the agent to register as its parameter.
        optimizer: for the agent to return from `configure_optimizers`.
    """

    def __init__(
        self,
        members: int,
        d_action: int,
        floor: float | Literal["auto"] | None,
        reduction: Literal["sum", "mean"],
        initial_temperature: float,
        log_range: tuple[float, float],
        lr: float,
    ) -> None:
        # `auto` is the paper's -|A| whatever the reduction.
        self.floor = -float(d_action) if floor == "auto" else floor
        self.reduction, self.log_range, self.lr = reduction, log_range, lr
        self.initial = math.log(initial_temperature)
        self.log_temperature = nn.Parameter(torch.full((members,), self.initial))
        self.optimizer = make_adam([self.log_temperature], lr)

    def reduce(self, log_prob: Tensor) -> Tensor:
        """Log-densities per dimension as one: `[..., A] -> [...]`."""
        return log_prob.sum(-1) if self.reduction == "sum" else log_prob.mean(-1)

    def update(self, entropy: Tensor) -> Tensor:
        """One step from the `[M]` entropies, detached; returns the `[M]` temperatures."""
        if self.floor is None:
            return torch.zeros_like(entropy)
        descend(self.optimizer, (self.log_temperature * (entropy - self.floor)).sum())
        with torch.no_grad():
            self.log_temperature.clamp_(*self.log_range)
            return self.log_temperature.exp()

    @torch.no_grad()
    def restart(self) -> None:
        """Forget what was learned."""
        reset_adam(self.optimizer, self.lr)
        self.log_temperature.fill_(self.initial)
