"""Two phases of an agent: a warm start by cloning, and the game that follows.

A target network that follows at a rate `tau` lets values come closer to those of the cloned policy by a factor e in
about `1 / (tau (1 - gamma))` updates. Before some of those have passed the critics are still on their way up or down,
and the policy would ascend what is not there yet: the paper's 100,000 updates are five of them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from modules.agent.actor_critic_updates import ActorUpdates, CriticUpdates
from modules.agent.descent import reset_adam, set_learning_rate
from modules.agent.entropy_floor import EntropyFloor, Temperature
from modules.agent.held_out_fit import held_out_fit
from modules.agent.plateau import Plateau, check_held_out, check_looked_at, held_out_mean
from modules.agent.trust_region import Tether, Tethered, check_trust_region, without_patience
from modules.arguments.changed import no_effect
from modules.arguments.checks import check_counts, check_group, check_ranges, check_sizes
from modules.batch import Transition
from modules.contracts import Update
from modules.functional.cloning import judged_by
from modules.functional.returns import discount_unless_terminal
from modules.networks.ensemble import follow
from modules.networks.policies import StackedPolicy
from modules.networks.trunks import Ensemble
from modules.trust.hints import fits
from modules.trust.names import short

SETTLED = 5
"""Time constants of the critics that make them settle: what is left of an error is 1%."""


@dataclass(frozen=True)
class WarmStart:
    """How long an agent clones the data's actions, and learns values without pessimism, before the game.

    Args:
        updates: number of updates of behaviour cloning, with `patience` at most so many; 0 begins with the game, and
            the others then say nothing.
        critic: whether the critics learn too, by the Bellman error alone.
        patience: the policy is cloned until its held-out loss (of `squared_error` the error alone) has not improved for
            so many validations, and goes on as it was at the best of them; the game begins when the critics have
            settled, too, that is after `5 / (critic.target_rate * (1 - discount))` updates. Null clones for all of
            `updates`.
        loss: `likelihood` of the data's actions, as in the paper; or `squared_error` of the most likely action, with
            the likelihood for the deviation around it alone: for data whose actions are often at their bounds.
        saturation: distance from the bounds, of actions in [-1, 1], within which an action counts as on the bound, by
            the probability of lying beyond; 0 counts densities alone, which are huge there.

    Raises:
        ValueError: a field is of another type, none of its choices or outside its range; it is named as
            `warm_start.updates` and so on.
    """

    updates: int = 100_000
    critic: bool = True
    patience: int | None = None
    loss: Literal["likelihood", "squared_error"] = "likelihood"
    saturation: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a start that never comes."""
        check_group("warm_start", self)
        check_counts(0, **{"warm_start.updates": self.updates})
        check_ranges(("warm_start.saturation", self.saturation, 0.0, 0.5))
        if self.patience is not None:
            check_sizes(**{"warm_start.patience": self.patience})


def settling_updates(target_rate: float, discount: float) -> int:
    """Updates after which values that targets follow at this rate are within 1% of where they tend to."""
    speed = target_rate * (1.0 - discount)
    return math.ceil(SETTLED / speed) if speed > 0 else 0  # undiscounted values have no such time


class TwoPhases(Tethered):
    """The part of a population of policies that knows its phase: cloning until it is good enough, then the game.

    Attributes:
        plateau: the rule that ends the cloning; None without `warm_start.patience`.
        cloned_actor: the policy of the best held-out loss so far; None as well.
        settling: updates that the critics need before the game.
        actor_turn: whether the policy learns in the next update.
        turn_metrics: metrics of the policy's last update in the game.
    """

    left_behind: ClassVar[tuple[str, ...]] = ("plateau", "cloned_actor", "tether")

    updates: int
    warm_start: WarmStart
    actor_updates: ActorUpdates
    critic_updates: CriticUpdates
    entropy: EntropyFloor
    temperature: Temperature
    plateau: Plateau | None
    cloned_actor: StackedPolicy | None
    settling: int
    actor_turn: bool
    turn_metrics: Mapping[str, Tensor]
    discount: float
    critic_lr: float
    actor_lr: float
    critic: Ensemble
    target_critic: Ensemble
    actor_optimizer: torch.optim.Adam
    actor: StackedPolicy
    average_actor: StackedPolicy | None

    @property
    def acting(self) -> StackedPolicy:
        """The policy that acts: the average where one is kept, else the learned one."""
        return self.actor if self.average_actor is None else self.average_actor

    @property
    def phase(self) -> str:
        return "warm start" if self.warm_starting else "training"

    @property
    def branch(self) -> Hashable:
        return self.warm_starting, self.actor_turn

    def _plan_phases(self, settling: int) -> None:
        """Decide how the warm start ends, for critics that settle in so many updates, and enter it."""
        check_trust_region(self.trust, self.warm_start.patience)
        patience = self.warm_start.patience
        self.plateau = None if patience is None else Plateau(patience)
        self.settling = settling if self.warm_start.critic else 0
        self.turn_metrics = {}
        self._enter_phase()

    def _keep_copies(self) -> None:
        """Make the copies of the actor that act, and that hold the best cloned policy, where there are such."""
        averaged, kept = self.actor_updates.average_rate is not None, self.plateau is not None
        self.average_actor = copy.deepcopy(self.actor).requires_grad_(False) if averaged else None
        self.cloned_actor = copy.deepcopy(self.actor).requires_grad_(False) if kept else None
        self.tether = Tether(self.trust, len(self.population)) if kept else None

    @property
    def game_begins(self) -> int:
        """Updates before the game, as far as this is known by now."""
        reached = None if self.plateau is None else self.plateau.reached_at
        # One update lies between the rule and the game, so that the cloned policy can be evaluated as it is.
        ready = math.inf if reached is None else max(reached + 1, self.settling)
        return int(min(self.warm_start.updates, ready))

    @property
    def kept_as(self) -> str | None:
        """The policy that the game begins with is the cloned one, and is kept."""
        return "cloned" if self.updates == self.game_begins > 0 else None

    @property
    def cloned(self) -> bool:
        """Whether the policy has been cloned alone, and not learned from critics."""
        return self.updates <= self.game_begins and self.game_begins > 0

    @property
    def ended_by(self) -> str | None:
        played = self.updates - self.game_begins
        if played >= 0 and not self.worth_a_game:
            return "trust.headroom"
        return "trust.updates" if self.trust.updates is not None and played >= self.trust.updates else None

    def _enter_phase(self) -> None:
        # Read by `learn` instead of the counter: a compiled update is then one graph per phase, not one per step.
        self.warm_starting = self.updates < self.game_begins
        if self.warm_starting:
            self.actor_turn = self.plateau is None or self.plateau.reached_at is None
        else:
            self.actor_turn = self.updates % self.actor_updates.interval == 0

    def _next_phase(self) -> None:
        """Enter the phase of the next update, once the last one has been counted."""
        cloning = self.warm_starting
        self._enter_phase()
        if cloning and not self.warm_starting:
            self._start_game()

    def _start_game(self) -> None:
        """The policy slows down and forgets its moments; temperature and its moments start afresh (official code)."""
        self._settle_on_cloned()
        reset_adam(self.actor_optimizer, self.actor_lr)
        self.temperature.restart()

    def _with_turn_metrics(self, made: Update) -> Update:
        """An update with the metrics of the policy's last one in the game, where it was not the policy's turn."""
        if self.actor_turn or self.warm_starting:
            self.turn_metrics = {} if self.warm_starting else made.metrics
        return made._replace(metrics={**self.turn_metrics, **made.metrics})

    def rank_state(self) -> dict[str, Any]:
        """As of every population; and metrics of the policy's last update, which those before the next one repeat."""
        return super().rank_state() | {"turn_metrics": {name: x.cpu() for name, x in self.turn_metrics.items()}}

    def load_rank_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `rank_state`; checkpoints of runs that kept no such metrics lack them.

        Raises:
            ValueError: they are no metrics of these members.
        """
        super().load_rank_state(state)
        kept, shapes = state.get("turn_metrics", {}), ((), (len(self.population),))
        known = fits(kept, dict[str, Tensor]) and all(isinstance(name, str) and name.isprintable() for name in kept)
        if not known or any(x.shape not in shapes for x in kept.values()):
            raise ValueError(f"metrics of the policy's last update are {short(kept)}")
        self.turn_metrics = {name: x.to(self.device) for name, x in kept.items()}

    def _objective(self, rows: Transition, statistics: tuple[Tensor, ...], action: Tensor) -> tuple[str, Tensor]:
        """Name and `[M]` values of what the policy descends: in the warm start the loss of recorded actions, in the
        game minus the value that the followed critic gives its own actions `[M, B, A]`.
        """
        if self.warm_starting:
            return "cloning_loss", self._cloning_loss(rows.action, statistics)
        return "negative_value", -self.kind.value(
            self.critic, self.actor_updates.critic, rows.observation, action
        ).mean(-1)

    def _average(self) -> None:
        """Let the average policy follow, where there is one."""
        rate = self.actor_updates.average_rate
        if self.average_actor is not None and rate is not None:
            follow(self.average_actor, self.actor, rate)

    def _cloning_loss(self, action: Tensor, statistics: tuple[Tensor, ...]) -> Tensor:
        """`[M]` loss of the data's actions, with the dimensions of an action joined as in the entropy."""
        loss, saturation = self.warm_start.loss, self.warm_start.saturation
        return self.temperature.reduce(self.kind.cloning_loss(loss, saturation, action, *statistics)).mean(-1)

    def _held_out_errors(self, rows: Transition) -> dict[str, Tensor]:
        """`[M]` fit of policy and critics on held-out rows `[M, B, ...]`, at the policy's most likely action."""
        acting = self.acting
        statistics = acting(rows.observation)
        discount = discount_unless_terminal(self.discount, rows.terminated)

        def backup(next_value: Tensor) -> Tensor:
            return self.critic_updates.target(rows.reward, discount, next_value)

        return {
            **held_out_fit(self.kind, acting, self.critic, self.target_critic, rows, backup),
            "cloning_loss": self._cloning_loss(rows.action, statistics),
            **self._held_out_trust(rows, statistics),
        }

    def on_validation_end(self) -> None:
        """Keep the policy of the best held-out loss, and let it go on from there when no better one comes."""
        if self.trainer.sanity_checking:
            return
        self.validated_at = self.updates
        if self.plateau is None or self.cloned_actor is None or not self.warm_starting:
            return
        if self.plateau.reached_at is not None:
            return
        metrics = self.trainer.callback_metrics
        better, over = self.plateau.look(held_out_mean(metrics, judged_by(self.warm_start.loss)), self.updates)
        if better:
            follow(self.cloned_actor, self.acting, 1.0)
            self._measure_spread(metrics)
        if over:
            self._take_cloned(self.cloned_actor)
            self._enter_phase()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if self.plateau is not None:
            self.plateau.take_over(checkpoint["state_dict"], "plateau")
        self._enter_phase()
        self._refuse_past(checkpoint["hyper_parameters"])
        set_learning_rate(self.actor_optimizer, self.critic_lr if self.warm_starting else self.actor_lr)

    def _settle_on_cloned(self) -> None:
        """Let the game begin with the best cloned policy, also where the number of updates ended the cloning."""
        if self.plateau is None or self.cloned_actor is None or self.plateau.reached_at is not None:
            return
        if self.plateau.best.isfinite():
            self._take_cloned(self.cloned_actor)
        else:  # nobody has looked
            follow(self.cloned_actor, self.acting, 1.0)

    def _take_cloned(self, cloned: StackedPolicy) -> None:
        follow(self.actor, cloned, 1.0)
        if self.average_actor is not None:
            follow(self.average_actor, cloned, 1.0)

    def refuse_arguments(self, saved: Mapping[str, Any]) -> None:
        """Refuse a rule that the checkpoint's run did not follow: it has a past of its own."""
        old, new = saved.get("warm_start", {}).get("patience"), self.warm_start.patience
        if (old is None) != (new is None):
            raise ValueError(no_effect("model.warm_start.patience", old, new, "a run keeps its rule, or has none"))

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
        limit = min(before["warm_start"]["updates"], self.warm_start.updates)
        begun = self.updates >= limit or not self.warm_starting
        fields = [("warm_start", name) for name in now["warm_start"]] + [("entropy", "initial_temperature")]
        for group, name in fields:
            old, new = before[group][name], now[group][name]
            if old != new and begun:
                why = f"the checkpoint is of update {self.updates}"
                raise ValueError(no_effect(f"model.{group}.{name}", old, new, why))

    def check_run(self, trainer: Trainer, data: object) -> None:
        """Refuse a rule that has nothing to look at, or no time to."""
        super().check_run(trainer, data)
        if self.plateau is not None:
            off = without_patience(self.trust)
            check_held_out(trainer, data, *off)
            check_looked_at(trainer, data, self.warm_start.updates, *off)
            self.size_region(data)

    def on_fit_start(self) -> None:
        """Say so when there is no game at all."""
        super().on_fit_start()
        updates = self.trainer.estimated_stepping_batches
        if self.warm_start.updates >= updates:
            rank_zero_warn(
                f"the whole run is warm start, that is cloning: {updates} updates, of which "
                f"warm_start.updates={self.warm_start.updates}"
            )
