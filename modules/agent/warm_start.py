"""Two phases of an agent, a warm start and the game that follows, and the checks of their settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytorch_lightning import LightningModule
from pytorch_lightning.utilities import rank_zero_warn

from modules.arguments.changed import no_effect
from modules.arguments.checks import check_intervals, check_ranges, check_widths

Interval = tuple[float, float]

RANGES = {
    "actor_interval": (1, 1 << 20),
    "warm_start_updates": (0, 1 << 62),
    "discount": (0.0, 1.0),
    "residual_weight": (0.0, 1.0),
    "target_rate": (0.0, 1.0),
    "average_rate": (0.0, 1.0),
    "critic_lr": (0.0, 1e3),
    "actor_lr": (0.0, 1e3),
    "initial_temperature": (1e-30, 1e30),
    "projection_radius": (1e-12, 1e12),
    "target_entropy": (-1e12, 1e12),
}
"""Where each setting must lie."""


def check_game(
    *, beta: Sequence[float], hidden: Sequence[int], log_temperature_range: Interval, value_range: Interval | None,
    log_std_range: Interval, **settings: float | str | None,
) -> None:  # fmt: skip
    """Refuse widths that are none, empty intervals, and settings outside of `RANGES`; names and None are no numbers.

    Raises:
        ValueError: it names the first one.
    """
    numbers = {name: x for name, x in settings.items() if x is not None and not isinstance(x, str)}
    check_ranges(
        *(("beta", x, 0.0, 1e12) for x in beta),
        *((name, x, *RANGES[name]) for name, x in numbers.items()),
    )
    check_widths(hidden=hidden)
    check_intervals(log_temperature_range=log_temperature_range, value_range=value_range, log_std_range=log_std_range)


class WarmStart(LightningModule):
    """The part of an agent that knows its phase: `warm_start_updates` of cloning, then the game."""

    updates: int
    warm_start_updates: int
    actor_interval: int

    @property
    def phase(self) -> str:
        return "warm start" if self.warm_starting else "training"

    def _enter_phase(self) -> None:
        # Read by `update` instead of the counter: a compiled update is then one graph per phase, not one per step.
        self.warm_starting = self.updates < self.warm_start_updates
        self.actor_turn = self.warm_starting or self.updates % self.actor_interval == 0

    def _refuse_past(self, saved: Mapping[str, Any]) -> None:
        """Refuse another start of the game once it has begun, or one that would already lie behind."""
        begun = self.updates >= saved["warm_start_updates"]
        for name in ("warm_start_updates", "warm_start_critic", "initial_temperature"):
            old, new = saved[name], self.hparams[name]
            if old != new and (begun or self.updates >= self.warm_start_updates):
                raise ValueError(no_effect(f"model.{name}", old, new, f"the checkpoint is of update {self.updates}"))

    def _warn_of_cloning(self) -> None:
        updates = self.trainer.estimated_stepping_batches
        if self.warm_start_updates >= updates:
            rank_zero_warn(
                f"the whole run is warm start, that is cloning: {updates} updates, of which "
                f"warm_start_updates={self.warm_start_updates}"
            )
