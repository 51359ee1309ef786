"""Multipliers of Lagrange that are learned by dual gradient descent, one per member."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modules.agent.descent import descend, make_adam
from modules.arguments.checks import check_group, check_ranges
from modules.functional.conservatism import multiplier_loss

LARGEST = 1e6
"""Of every multiplier: beyond it the constraint cannot be met (d3rlpy's limit of CQL's)."""


@dataclass(frozen=True)
class Constraint:
    """How large a penalty may be before its weight grows.

    Args:
        threshold: the penalty that is allowed: a learned multiplier of its weight, from 1 on, grows while the penalty
            is larger and falls while it is smaller; null leaves the weight as it is.
        lr: Adam learning rate of the multiplier's logarithm; it says nothing without a threshold.

    Raises:
        ValueError: a field is of another type or outside its range; it is named as `multiplier.threshold` and so on.
    """

    threshold: float | None = None
    lr: float = 1e-4

    def __post_init__(self) -> None:
        """Refuse what is no number."""
        check_group("multiplier", self)
        check_ranges(("multiplier.lr", self.lr, 0.0, 1e3))
        if self.threshold is not None:
            check_ranges(("multiplier.threshold", self.threshold, -1e12, 1e12))


class Multiplier(nn.Module):
    """The weight of a constraint for each of `M` members: it grows while the constraint is violated.

    Args:
        initial: value of each member at the start, above 0.
        lr: Adam learning rate of its logarithm; 0 leaves it as it starts.
        least: value that none falls below, so that it is soon back when it is needed.

    Attributes:
        log_value: `[M]` logarithm of the multipliers.
        optimizer: optimiser of `log_value`.
    """

    def __init__(self, initial: Sequence[float], lr: float, least: float = 0.0) -> None:
        super().__init__()
        self.log_range = (math.log(least) if least > 0.0 else -math.inf, math.log(LARGEST))
        self.log_value = nn.Parameter(torch.tensor([math.log(x) for x in initial]))
        self.optimizer = make_adam([self.log_value], lr)

    def update(self, slack: Tensor) -> Tensor:
        """Take one step from the `[M]` slacks, negative where violated; returns the `[M]` multipliers, detached."""
        descend(self.optimizer, multiplier_loss(self.log_value, slack).sum())
        with torch.no_grad():
            self.log_value.clamp_(*self.log_range)
            return self.log_value.exp()
