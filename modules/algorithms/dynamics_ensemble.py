"""An ensemble of probabilistic networks that predict what a step does, learned from recorded data.

Source: Chua et al. 2018, "Deep Reinforcement Learning in a Handful of Trials using Probabilistic Dynamics Models"
(PETS, https://arxiv.org/abs/1805.12114). Every network gives a normal of the change of the observation and of the
reward; where the data say little, networks that learned from other rows disagree.

It is a model and not a policy: nothing plays it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pytorch_lightning import Trainer
from tensordict import TensorDictBase
from torch import Tensor, nn

from modules.agent.agent import Agent
from modules.agent.compiled import WholeUpdate, whole_update
from modules.agent.descent import descend, make_adam, weighted_sum
from modules.agent.plateau import EndsAtPlateau, Plateau, check_held_out
from modules.agent.population import Population
from modules.arguments.changed import RUNNING, STARTED
from modules.arguments.checks import check_choice, check_ranges, check_sizes, check_widths
from modules.batch import PLAIN, Spaces, Transition
from modules.contracts import HasReplay, Update
from modules.networks.action_units import action_units
from modules.networks.blocks import Normalize
from modules.networks.dynamics import StackedDynamics, StepDistribution, step_targets
from modules.networks.ensemble import INITIALIZERS


class DynamicsEnsemble(EndsAtPlateau, Agent):
    """Networks that predict the change of the observation, the reward, and the end of the episode.

    Args:
        spaces: observation and action spaces, announced by the datamodule.
        seeds: number of networks, each with own initial weights and (unless `shared_batch`) minibatches.
        seed: seed of the first network.
        shared_batch: whether all networks learn from one minibatch per update instead of one each.
        hidden: widths of the hidden layers.
        initializer: initial weights, `xavier_normal` with zero bias or `torch_default`.
        lr: Adam learning rate.
        terminations: whether the networks predict terminal states, too; without, no imagined episode ends.
        patience: the run ends when the held-out log-likelihood, the mean over networks, has not improved for so many
            validations, and the networks of the best of them are those that predict; null trains to the end.
        compile: whether the whole update is compiled into one graph, half a minute at the start; `auto`: in a run of
            20,000 updates or more, of one process with a compiler; or `captured`, replayed as a CUDA graph.

    Raises:
        ValueError: spaces other than a flat Box of observations and a bounded flat Box or a Discrete space of actions,
            or an argument outside its range.
    """

    acts = False
    batch_type = Transition
    held_out_loss = "negative_log_likelihood"
    fixed_on_resume: ClassVar[dict[str, str]] = {
        "seed": RUNNING,
        "initializer": STARTED,
        "patience": "a run keeps its rule",
    }

    def __init__(
        self,
        spaces: Spaces | None = None,
        seeds: int = 5,
        seed: int = 0,
        shared_batch: bool = False,
        hidden: list[int] = [200, 200],  # noqa: B006 - read only; a list is what YAML gives
        initializer: Literal["xavier_normal", "torch_default"] = "torch_default",
        lr: float = 1e-3,
        terminations: bool = True,
        patience: int | None = 5,
        compile: WholeUpdate = "auto",
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["spaces"])
        check_ranges(("lr", lr, 0.0, 1e3))
        check_widths(hidden=hidden)
        check_choice("initializer", initializer, INITIALIZERS)
        if patience is not None:
            check_sizes(patience=patience)
        # Networks differ in their seeds alone; everything random in one comes from its own.
        self.population = Population("", [0.0], seeds, seed, shared_batch)
        self.hidden = list(hidden)
        self.initializer = INITIALIZERS[initializer]
        self.lr = lr
        self.terminations = terminations
        self.compile_mode = whole_update(compile)
        self.plateau = None if patience is None else Plateau(patience)
        self.best_dynamics: StackedDynamics | None = None
        self.build_for(spaces)

    def build(self, spaces: Spaces) -> None:
        observations, actions = spaces.flat_boxes_or_discrete()
        (d_observation,) = observations.shape
        self.normalize = Normalize(d_observation, *spaces.statistics_by_key().get(PLAIN, ()))
        self.units = action_units(actions)
        self.dynamics = StackedDynamics(
            self.opinions, d_observation, self.units.width, self.hidden, self.terminations,
            self.initializer, self.population.generators(0),
        )  # fmt: skip
        if self.plateau is not None:
            self.best_dynamics = copy.deepcopy(self.dynamics).requires_grad_(False)
        self.optimizer = make_adam(self.dynamics.parameters(), self.lr)

    @property
    def opinions(self) -> int:
        """Number of networks."""
        return len(self.population)

    @property
    def predicting(self) -> StackedDynamics:
        """The networks of the best held-out loss so far, once there are some; without the rule the learned ones."""
        return self.best_dynamics if self.has_best and self.best_dynamics is not None else self.dynamics

    @property
    def member_names(self) -> tuple[str, ...]:
        return self.population.names

    # -------------------------------------------------------------------------------------------------------- update
    def learn(self, transition: Transition) -> Update:
        """One step of Adam on the likelihood of what the recorded steps did.

        Args:
            transition: `[B]` rows shared by all networks, or `[seeds * B]` with one minibatch each, seed-major.
        """
        batch = Transition(*(self._spread(x, self.population.minibatches) for x in transition[:6]))
        target = step_targets(batch)
        self.dynamics.scale.see(target)
        predicted = self._predict(self.dynamics, batch.observation, batch.action)
        terms, weights = self.dynamics.losses(predicted, target, batch.terminated)
        descend(self.optimizer, weighted_sum(terms, weights).sum())
        errors = self.dynamics.errors(predicted, target, batch.terminated)
        metrics = {**errors, "bound_width": terms["bounds"] / self.dynamics.targets}
        return Update({name: value.detach() for name, value in metrics.items()})

    @torch.no_grad()
    def evaluate_losses(self, batch: TensorDictBase | Transition) -> dict[str, Tensor]:
        """Held-out `[M]` errors of the networks that learn, and their disagreement; batches are shared."""
        rows = Transition(*(self._spread(x, 1) for x in self.read(batch)[:6]))
        target = step_targets(rows)
        predicted = self._predict(self.dynamics, rows.observation, rows.action)
        errors = self.dynamics.errors(predicted, target, rows.terminated)
        # How far each network's mean is from that of all, squared, in units of the targets' variance.
        distance = (predicted.mean - predicted.mean.mean(0)) / self.dynamics.scale.deviation
        return errors | {"disagreement": distance.square().mean((1, 2))}

    def named_metrics(self, group: str, metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As for every population, and the means over networks that are finite, by which the ensemble is chosen."""
        named = super().named_metrics(group, metrics)
        if self.opinions == 1:
            return named
        means = {f"{group}/{name}": x.float().where(x.isfinite(), torch.nan).nanmean() for name, x in metrics.items()}
        return named | means

    def _spread(self, x: Tensor, minibatches: int) -> Tensor:
        return self.population.spread(x, minibatches)

    # ---------------------------------------------------------------------------------------------------- predictions
    def predict(self, observation: Tensor, action: Tensor) -> StepDistribution:
        """Every network's prediction for rows of its own.

        Args:
            observation: `[M, B, D]` raw observations.
            action: `[M, B, A]` actions in the environment's units, or `[M, B]` numbers.
        """
        return self._predict(self.predicting, observation, action)

    def begin(self, memory: Tensor, copies: int) -> Tensor:
        """Rows `[K * N * C, D]` of observations `[N, D]`: what each of `K` networks looks ahead from."""
        return memory.repeat_interleave(copies, 0).repeat(self.opinions, 1)

    def view(self, state: Tensor) -> Tensor:
        """The imagined observations."""
        return state

    @torch.no_grad()
    def step(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The likeliest next observations by each network, rewards, and chances of a terminal state."""
        rows = [x.unflatten(0, (self.opinions, -1)) for x in (state, action)]
        predicted = self.predict(*rows)
        mean = predicted.mean.flatten(0, 1)
        return state + mean[:, :-1], mean[:, -1], predicted.chance_of_ending().flatten()

    def _predict(self, dynamics: StackedDynamics, observation: Tensor, action: Tensor) -> StepDistribution:
        learned = self.units.learned(action)
        vector = F.one_hot(learned, self.units.width).to(observation) if self.units.discrete else learned
        return dynamics(self.normalize(observation), vector)

    def policy(self, member: int = 0) -> nn.Module:
        """There is none.

        Raises:
            ValueError: it says so, to whoever was given a model where a policy is asked for.
        """
        raise ValueError("a DynamicsEnsemble predicts steps and chooses no actions: give the checkpoint of a policy")

    # ------------------------------------------------------------------------------------------------- when it ends
    def check_run(self, trainer: Trainer, data: object) -> None:
        super().check_run(trainer, data)
        if isinstance(data, HasReplay):
            raise ValueError("a DynamicsEnsemble chooses no actions and cannot collect; give --data OfflineDataModule")
        if self.plateau is not None:
            check_held_out(trainer, data, "patience")

    def learned_and_best(self) -> tuple[nn.Module, nn.Module | None]:
        return self.dynamics, self.best_dynamics
