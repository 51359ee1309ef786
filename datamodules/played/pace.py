"""How many environment steps an update waits for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from modules.arguments.checks import check_counts, check_ranges, check_sizes


@dataclass(frozen=True)
class Pace:
    """A fixed number of updates per environment step, after steps and updates that come first.

    Steps are those of all processes of a run together.

    Attributes:
        updates_per_step: updates per environment step.
        steps_per_epoch: environment steps that make one epoch.
        prefill: environment steps before the first update.
        pretrain_updates: updates before the first step of the agent.
        at_once: steps of the agent that are taken in one go, before all the updates that they make.

    Raises:
        ValueError: a number is out of range.
    """

    updates_per_step: float
    steps_per_epoch: int
    prefill: int
    pretrain_updates: int
    at_once: int = 1

    def __post_init__(self) -> None:
        check_sizes(steps_per_epoch=self.steps_per_epoch, collect_at_once=self.at_once)
        check_counts(0, pretrain_updates=self.pretrain_updates)
        check_ranges(("updates_per_step", self.updates_per_step, 1e-9, 1e9))
        check_sizes(updates_per_epoch=math.ceil(self.updates_per_step * self.steps_per_epoch))

    @property
    def updates_per_epoch(self) -> int:
        """Updates that make one epoch, at least one."""
        return max(1, round(self.steps_per_epoch * self.updates_per_step))

    def due(self, updates: int, world: int) -> int:
        """Environment steps of each of `world` processes that the update after so many waits for, counted from 0."""
        trained = max(0, updates + 1 - self.pretrain_updates)
        blocks = math.ceil(trained / (self.updates_per_step * self.at_once) - 1e-6)
        return math.ceil((self.prefill + blocks * self.at_once) / world)

    def realised(self, updates: int, steps: int) -> float | None:
        """Updates per step so far, after those that come first; None before the first step of the agent."""
        after = steps - self.prefill
        return max(0, updates - self.pretrain_updates) / after if after > 0 else None
