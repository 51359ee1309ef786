"""Two phases of an agent: a warm start by cloning, and the game that follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pytorch_lightning import LightningModule
from pytorch_lightning.utilities import rank_zero_warn

from modules.agent.actor_critic_updates import ActorUpdates
from modules.agent.entropy_floor import EntropyFloor
from modules.arguments.changed import no_effect
from modules.arguments.checks import check_counts, check_group


@dataclass(frozen=True)
class WarmStart:
    """How long an agent clones the data's actions, and learns values without pessimism, before the game.

    Args:
        updates: number of updates of behaviour cloning; 0 begins with the game.
        critic: whether the critics learn too, by the Bellman error alone.

    Raises:
        ValueError: a field is of another type, or `warm_start.updates` is negative, or absurd.
    """

    updates: int = 100_000
    critic: bool = True

    def __post_init__(self) -> None:
        """Refuse a start that never comes."""
        check_group("warm_start", self)
        check_counts(0, **{"warm_start.updates": self.updates})


class TwoPhases(LightningModule):
    """The part of an agent that knows its phase: so many updates of cloning, then the game."""

    updates: int
    warm_start: WarmStart
    actor_updates: ActorUpdates
    entropy: EntropyFloor

    @property
    def phase(self) -> str:
        return "warm start" if self.warm_starting else "training"

    def _enter_phase(self) -> None:
        # Read by `learn` instead of the counter: a compiled update is then one graph per phase, not one per step.
        self.warm_starting = self.updates < self.warm_start.updates
        self.actor_turn = self.warm_starting or self.updates % self.actor_updates.interval == 0

    def _refuse_past(self, saved: Mapping[str, Any]) -> None:
        """Refuse another start of the game once it has begun, or one that would already lie behind.

        Args:
            saved: arguments in the checkpoint, plain values; fields that it lacks had their defaults.
        """
        before = {
            "warm_start": asdict(WarmStart()) | saved.get("warm_start", {}),
            "entropy": asdict(EntropyFloor()) | saved.get("entropy", {}),
        }
        now = {"warm_start": asdict(self.warm_start), "entropy": asdict(self.entropy)}
        begun = self.updates >= min(before["warm_start"]["updates"], self.warm_start.updates)
        for group, name in (("warm_start", "updates"), ("warm_start", "critic"), ("entropy", "initial_temperature")):
            old, new = before[group][name], now[group][name]
            if old != new and begun:
                why = f"the checkpoint is of update {self.updates}"
                raise ValueError(no_effect(f"model.{group}.{name}", old, new, why))

    def _warn_of_cloning(self) -> None:
        updates = self.trainer.estimated_stepping_batches
        if self.warm_start.updates >= updates:
            rank_zero_warn(
                f"the whole run is warm start, that is cloning: {updates} updates, of which "
                f"warm_start.updates={self.warm_start.updates}"
            )
