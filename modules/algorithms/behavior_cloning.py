"""Behaviour cloning: policies that do what recorded data did, trained until held-out episodes say that it is enough.

The baseline of offline learning: a learner from rewards has to beat it (Pomerleau 1991, "Efficient Training of
Artificial Neural Networks for Autonomous Navigation", https://doi.org/10.1162/neco.1991.3.1.88). Losses are those of
`modules.functional.cloning`; of numbered actions it is the cross-entropy.

One agent holds `M = seeds` members that never interact, stacked along the first axis of every weight.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pytorch_lightning import Trainer
from tensordict import TensorDictBase
from torch import Tensor, nn

from modules.agent.action_kinds import ActionKind, action_kind
from modules.agent.agent import Agent
from modules.agent.compiled import WholeUpdate, whole_update
from modules.agent.descent import descend, make_adam, weighted_sum
from modules.agent.plateau import EndsAtPlateau, Plateau, check_held_out
from modules.agent.policy_population import PolicyPopulation
from modules.agent.population import Population
from modules.arguments.changed import RUNNING, STARTED
from modules.arguments.checks import check_choice, check_intervals, check_ranges, check_sizes, check_widths
from modules.batch import Spaces, Transition
from modules.contracts import Update
from modules.functional.cloning import LOSSES, judged_by
from modules.networks.auxiliary_losses import collecting
from modules.networks.ensemble import INITIALIZERS
from modules.networks.perception import MakeEncoder
from modules.networks.policies import StackedPolicy
from modules.networks.trunks import losses_by_member
from modules.networks.updates import set_noise

COMPARED = "the best held-out loss so far was found with the other one"


class BehaviorCloning(EndsAtPlateau, PolicyPopulation, Agent):
    """Behaviour cloning of continuous or numbered actions.

    Args:
        spaces: observation and action spaces, announced by the datamodule.
        seeds: number of members, each with own initial weights and (unless `shared_batch`) minibatches.
        seed: seed of the first member.
        shared_batch: whether all seeds learn from one minibatch per update instead of one each.
        hidden: widths of the hidden layers.
        trunk: any layer instead of the hidden layers, called with `(features in, the last of the hidden widths)`.
        encoder: encoder of images, one for each network, such as `modules.networks.encoders.Encoder`; null is the usual
            one.
        initializer: initial weights, `xavier_normal` with zero bias or `torch_default`; a trunk has its own.
        lr: Adam learning rate.
        loss: `likelihood` of the data's actions; or, for continuous ones, `squared_error` of the most likely action,
            with the likelihood for the deviation around it alone: for data whose actions are often at their bounds.
        saturation: distance from the bounds, of actions in [-1, 1], within which an action counts as on the bound, by
            the probability of lying beyond; 0 counts densities alone, which are huge there.
        patience: the run ends when the held-out loss (of `squared_error` the error alone), the mean over members, has
            not improved for so many validations, and the policies of the best of them are those that act; null trains
            to the end and acts with the last ones.
        log_std_range: clamp of the log standard deviation of continuous actions before squashing.
        compile: whether the whole update is compiled into one graph, half a minute at the start; `auto`: in a run of
            20,000 updates or more, of one process with a compiler; or `captured`, replayed as a CUDA graph.

    Raises:
        ValueError: spaces other than a flat Box or images, and a bounded flat Box or a Discrete space of actions,
            a choice that numbered actions do not have, an encoder where there are no images, or an argument outside its
            range.
    """

    batch_type = Transition
    takes_images = True
    kind: ActionKind
    fixed_on_resume: ClassVar[dict[str, str]] = {
        "seed": RUNNING,
        "initializer": STARTED,
        "patience": "a run keeps its rule",
        "loss": COMPARED,
        "saturation": COMPARED,
    }

    def __init__(
        self,
        spaces: Spaces | None = None,
        seeds: int = 1,
        seed: int = 0,
        shared_batch: bool = False,
        hidden: list[int] = [256, 256],  # noqa: B006 - read only; a list is what YAML gives
        trunk: Callable[[int, int], nn.Module] | None = None,
        encoder: MakeEncoder | None = None,
        initializer: Literal["xavier_normal", "torch_default"] = "xavier_normal",
        lr: float = 5e-4,
        loss: Literal["likelihood", "squared_error"] = "likelihood",
        saturation: float = 0.0,
        patience: int | None = 10,
        log_std_range: tuple[float, float] = (-5.0, 2.0),
        compile: WholeUpdate = "auto",
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["spaces"])
        check_ranges(("lr", lr, 0.0, 1e3), ("saturation", saturation, 0.0, 0.5))
        check_widths(hidden=hidden)
        check_choice("initializer", initializer, INITIALIZERS)
        check_choice("loss", loss, LOSSES)
        check_intervals(log_std_range=log_std_range)
        if patience is not None:
            check_sizes(patience=patience)
        # Members differ in their seeds alone; everything random in a member comes from its own.
        self.population = Population("", [0.0], seeds, seed, shared_batch)
        self.hidden = list(hidden)
        self.trunk = trunk
        self.make_encoder = encoder
        self.initializer = INITIALIZERS[initializer]
        self.lr = lr
        self.loss = loss
        self.held_out_loss = judged_by(loss)
        self.saturation = saturation
        self.log_std_range = log_std_range
        self.compile_mode = whole_update(compile)
        self.plateau = None if patience is None else Plateau(patience)
        self.best_actor: StackedPolicy | None = None
        self.build_for(spaces)

    def build(self, spaces: Spaces) -> None:
        d_observation, _ = self._observe(spaces, discrete=True)
        self.kind = action_kind(self.units)
        self.kind.check_cloning(self.loss, self.saturation)
        self.actor = self.kind.make_policy(
            len(self.population), d_observation, self.hidden, self.log_std_range,
            self.initializer, self.population.generators(0), self.trunk,
        )  # fmt: skip
        set_noise(self.actor, False)  # it acts
        if self.plateau is not None:
            self.best_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.optimizer = make_adam(self.actor.parameters(), self.lr)

    @property
    def acting(self) -> StackedPolicy:
        """The policies of the best held-out loss so far, once there is one; without the rule the learned ones."""
        return self.best_actor if self.has_best and self.best_actor is not None else self.actor

    # -------------------------------------------------------------------------------------------------------- update
    def learn(self, transition: Transition) -> Update:
        """One step of Adam on the loss of the data's actions.

        Args:
            transition: `[B]` rows shared by all seeds, or `[seeds * B]` with one minibatch per seed, seed-major.
        """
        batch = self._split(transition, self.population.minibatches)
        with collecting(self.actor.network) as auxiliary:
            statistics = self.actor(batch.observation)
        balance, balance_weights = losses_by_member(self.actor.network, auxiliary)
        cloning = self._cloning_loss(batch.action, statistics)
        loss = weighted_sum({"cloning": cloning, **balance}, {"cloning": 1.0, **balance_weights})
        descend(self.optimizer, loss.sum())
        terms = {f"actor/{name}": x.detach() for name, x in balance.items()}
        return Update({"cloning_loss": cloning.detach()} | terms)

    @torch.no_grad()
    def evaluate_losses(self, batch: TensorDictBase | Transition) -> dict[str, Tensor]:
        """Held-out `[M]` loss and errors of the policies that learn; batches are shared."""
        rows = self._split(self.read(batch), 1)
        statistics = self.actor(rows.observation)
        errors = self.kind.policy_errors(rows.action, *statistics)
        return {"cloning_loss": self._cloning_loss(rows.action, statistics), **errors}

    def _cloning_loss(self, action: Tensor, statistics: tuple[Tensor, ...]) -> Tensor:
        """`[M]` means over the rows, summed over dimensions."""
        return self.kind.cloning_loss(self.loss, self.saturation, action, *statistics).sum(-1).mean(-1)

    # ------------------------------------------------------------------------------------------------- when it ends
    def check_run(self, trainer: Trainer, data: object) -> None:
        super().check_run(trainer, data)
        if self.plateau is not None:
            check_held_out(trainer, data, "patience")

    def learned_and_best(self) -> tuple[nn.Module, nn.Module | None]:
        return self.actor, self.best_actor
