"""ARMOR: the game of ATAC inside of a learned model, which takes part in it.

Sources: Xie et al. 2022, "ARMOR: A Model-based Framework for Improving Arbitrary Baseline Policies with Offline Data"
(https://arxiv.org/abs/2211.04538), and Bhardwaj et al. 2023, "Adversarial Model for Offline Reinforcement Learning"
(https://arxiv.org/abs/2302.11048), on ATAC (Cheng et al. 2022, https://arxiv.org/abs/2202.02446). A model of a step
and the critics together make the policy look bad beside a reference policy, as far as the data allow it; the policy
ascends what they leave. Then it is not worse than the reference, also where that one leaves the data. As in the second
paper there is one model, and no ensemble. How the model's part of the game is put into losses is this project's own.

One agent holds `M = len(beta) * seeds` members that never interact, stacked along the first axis of every weight.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple

import torch
from tensordict import TensorDictBase
from torch import Tensor

from modules.agent.action_kinds import action_kind
from modules.agent.actor_critic_updates import ActorUpdates, CriticUpdates
from modules.agent.agent import Agent
from modules.agent.compiled import WholeUpdate, whole_update
from modules.agent.descent import descend, make_adam, weighted_sum
from modules.agent.entropy_floor import EntropyFloor, Temperature
from modules.agent.imagining import CLONED, DATA, Imagining, check_reference
from modules.agent.learned_model import DynamicsUpdates, RolloutPlan
from modules.agent.population import Population, one_or_more
from modules.agent.trust_region import TrustRegion
from modules.agent.warm_start import WarmStart, settling_updates
from modules.arguments.changed import RUNNING, STARTED
from modules.arguments.checks import check_choice, check_kinds, check_ranges, check_widths
from modules.batch import Spaces, Transition
from modules.contracts import Update
from modules.functional.deterministic_policy import value_weight
from modules.functional.pessimism import bellman_backup, dqra_loss, normalized_sum, relative_pessimism
from modules.functional.returns import discount_unless_terminal
from modules.networks.dynamics import StackedDynamics, step_targets
from modules.networks.ensemble import INITIALIZERS, follow
from modules.networks.replicas import average_over_ranks
from modules.networks.trunks import CRITICS, make_twin_critics


class Draws(NamedTuple):
    """Standard normal draws of one update, for each seed or member `M`; `R` counts recorded and imagined rows.

    Attributes:
        action: `[M, 2, R, A]` for the policy's actions at s and at s'.
        step: `[M, R, D + 1]` for steps of the model at s; none in the warm start.
        row: `[M, B]` for the choice of imagined rows; none in the warm start.
    """

    action: Tensor
    step: Tensor
    row: Tensor


class ARMOR(Imagining, Agent):
    """Adversarially trained actor, critics and model, relative to a reference policy.

    Args:
        spaces: observation and action spaces, announced by the datamodule.
        beta: weight of the Bellman error against pessimism; a list trains one member per value.
        seeds: number of members per beta, each with own initial weights, noise and (unless `shared_batch`) minibatches.
        seed: seed of the first member of each beta.
        shared_batch: whether all seeds learn from one minibatch per update instead of one each.
        discount: discount factor gamma per step.
        hidden: widths of the hidden layers of policy and critics.
        initializer: initial weights, `xavier_normal` with zero bias or `torch_default`.
        critic_lr: Adam learning rate of critics and temperature, and of the policy during the warm start.
        actor_lr: Adam learning rate of the policy after the warm start; slow against the critics by design.
        reference_policy: what the policy must not fall below: `cloned` is the policy that the warm start ends with,
            `data` are the recorded actions, and all else is the path of a checkpoint, whose policy it is.
        warm_start: number of updates of cloning without pessimism before the game, in which the model learns, too.
        dynamics: settings of how the model learns.
        rollouts: how far, how often and how many steps are imagined.
        actor: settings of how the policy follows the critics.
        critic: settings of how the critics learn; both are alike, so its `roles` are `twin`.
        entropy: floor under the policy's entropy.
        trust: how far the policy may leave what it cloned.
        compile: whether the whole update is compiled into one graph, half a minute per phase at its start; `auto`: in
            a run of 20,000 updates or more, of one process with a compiler; or `captured`, replayed as CUDA graphs.

    Raises:
        ValueError: spaces other than a flat Box, and a bounded flat Box of actions, or an argument outside its range.
    """

    batch_type = Transition
    fixed_on_resume: ClassVar[dict[str, str]] = {"seed": RUNNING, "initializer": STARTED}
    beta: Tensor

    def __init__(
        self,
        spaces: Spaces | None = None,
        beta: float | list[float] = 10.0,
        seeds: int = 1,
        seed: int = 0,
        shared_batch: bool = False,
        discount: float = 0.99,
        hidden: list[int] = [256, 256],  # noqa: B006 - read only; a list is what YAML gives
        initializer: Literal["xavier_normal", "torch_default"] = "torch_default",
        critic_lr: float = 5e-4,
        actor_lr: float = 5e-6,
        reference_policy: str = CLONED,
        warm_start: WarmStart = WarmStart(),
        dynamics: DynamicsUpdates = DynamicsUpdates(),
        rollouts: RolloutPlan = RolloutPlan(),
        actor: ActorUpdates = ActorUpdates(),
        critic: CriticUpdates = CriticUpdates(),
        entropy: EntropyFloor = EntropyFloor(),
        trust: TrustRegion = TrustRegion(),
        compile: WholeUpdate = "auto",
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["spaces"])
        betas = one_or_more(beta)
        check_ranges(
            *(("beta", x, 0.0, 1e12) for x in betas),
            ("discount", discount, 0.0, 1.0), ("critic_lr", critic_lr, 0.0, 1e3), ("actor_lr", actor_lr, 0.0, 1e3),
        )  # fmt: skip
        check_widths(hidden=hidden)
        check_choice("initializer", initializer, INITIALIZERS)
        check_kinds(
            warm_start=(warm_start, WarmStart), dynamics=(dynamics, DynamicsUpdates), rollouts=(rollouts, RolloutPlan),
            actor=(actor, ActorUpdates), critic=(critic, CriticUpdates), entropy=(entropy, EntropyFloor),
            trust=(trust, TrustRegion),
        )  # fmt: skip
        critic.check_twin("ARMOR")
        check_reference(reference_policy, warm_start.updates)
        # One group of members per beta; everything random in a member comes from its own seed.
        self.population = Population("beta", betas, seeds, seed, shared_batch)
        # Arguments and groups of them, as they are given.
        self.discount = discount
        self.hidden = list(hidden)
        self.initializer = INITIALIZERS[initializer]
        self.critic_lr = critic_lr
        self.actor_lr = actor_lr
        self.reference_policy = reference_policy
        self.warm_start = warm_start
        self.dynamics_updates = dynamics
        self.rollouts = rollouts
        self.actor_updates = actor
        self.critic_updates = critic
        self.entropy = entropy
        self.trust = trust
        self.compile_mode = whole_update(compile)
        self._plan_phases(settling_updates(critic.target_rate, discount))
        self.build_for(spaces)

    def build(self, spaces: Spaces) -> None:
        d_observation, d_action = self._observe(spaces)
        self.kind = action_kind(self.units)
        self.register_buffer("beta", self.population.per_member(), persistent=False)
        # Initial weights of the policy, of each critic and of the model come from a stream of their own per member.
        members = len(self.population)
        streams = [self.population.generators(stream) for stream in range(2 + CRITICS)]
        self.actor = self.kind.make_policy(
            members, d_observation, self.hidden, self.actor_updates.log_std_range, self.initializer, streams[0]
        )
        self._keep_copies()
        self.critic, self.target_critic = make_twin_critics(
            members, d_observation + d_action, self.hidden, 1,
            self.initializer, streams[1:-1], None, self.critic_updates.layer_norm,
        )  # fmt: skip
        settings = self.dynamics_updates
        self.dynamics = StackedDynamics(
            members, d_observation, d_action, settings.hidden, settings.terminations, self.initializer, streams[-1]
        )
        self._prepare_to_imagine(d_observation, d_action)
        self.temperature = Temperature(self.entropy, members, self.kind, self.critic_lr)
        self.log_temperature = self.temperature.log_temperature
        self.actor_optimizer = make_adam(self.actor.parameters(), self.critic_lr)
        self.critic_optimizer = make_adam(self.critic.parameters(), self.critic_lr)
        self.dynamics_optimizer = make_adam(self.dynamics.parameters(), settings.lr)
        self.temperature_optimizer = self.temperature.optimizer
        if not self.warm_starting:
            self._start_game()

    @torch.no_grad()
    def evaluate_losses(self, batch: TensorDictBase | Transition) -> dict[str, Tensor]:
        """Held-out `[M]` fit of policy, critics and model; batches are shared."""
        rows = self._split(self.read(batch), 1)
        predicted = self.dynamics(rows.observation, rows.action)
        errors = self.dynamics.errors(predicted, step_targets(rows), rows.terminated)
        return self._held_out_errors(rows) | {f"model_{name}": value for name, value in errors.items()}

    # -------------------------------------------------------------------------------------------------------- update
    def noise_for(self, batch: Transition) -> Draws:
        """Draws of the members' generators, one of each kind per seed."""
        recorded = len(batch.reward) // self.population.minibatches
        imagined = 0 if self.warm_starting else recorded
        rows = recorded + imagined
        shapes = ((2, rows, self.kind.d_noise), (rows if imagined else 0, self.dynamics.targets), (imagined,))
        return Draws(*(self.population.draw(shape, self.device, self.rank) for shape in shapes))

    def update(self, batch: Any, noise: Any = None) -> Update:
        """As every agent's, with steps imagined before where it is time for it; between the policy's updates of the
        game, its metrics are those of the last one.
        """
        rows = self.read(batch)
        if self.imagines:
            self.imagine_from(self._split(rows, self.population.minibatches).observation)
        return self._with_turn_metrics(super().update(rows, noise))

    def learn(self, transition: Transition, noise: Draws) -> Update:
        """One update of critics, model, temperature and policy, in this order.

        Args:
            transition: `[B]` rows shared by all seeds, or `[seeds * B]` with one minibatch per seed, seed-major.
            noise: draws of `noise_for`.
        """
        batch = recorded = self._split(transition, self.population.minibatches)
        draws = Draws(*(self.population.for_members(x) for x in noise))
        count = recorded.reward.shape[1]
        if not self.warm_starting:
            imagined = self.imagined.sample(torch.special.ndtr(draws.row))
            batch = Transition(*(torch.cat(rows, 1) for rows in zip(recorded[:6], imagined[:6], strict=True)))
        # One pass of the policy serves the pessimism of critics and model, the temperature and the policy's own loss.
        statistics = self.actor(batch.observation)
        action, log_prob = self.kind.play(draws.action[:, 0], *statistics)
        entropy = -self.temperature.reduce(log_prob).mean(-1)  # [M]
        metrics = {"entropy": entropy.detach()}
        # The followers learn first: the leader then ascends the critic that has just answered it.
        reference = None
        if not self.warm_starting:
            reference = (
                recorded.action if self.reference_policy == DATA else self.refer(batch.observation, draws.action[:, 0])
            )
        if not self.warm_starting or self.warm_start.critic:
            metrics |= self._update_critic(batch, action.detach(), reference, draws)
        metrics |= self._update_dynamics(recorded, batch.observation, action.detach(), reference, draws)
        if self.actor_turn:
            temperature = self.temperature.update(entropy.detach())
            name, objective = self._objective(batch, statistics, action)
            penalty, distance = self._pull_back(recorded.observation, tuple(x[:, :count] for x in statistics))
            descend(self.actor_optimizer, normalized_sum(objective + penalty, -entropy, temperature).sum())
            self._average()
            metrics |= {name: objective.detach(), "temperature": temperature, **distance}
        return Update(metrics)

    def _update_critic(
        self, batch: Transition, action: Tensor, reference: Tensor | None, draws: Draws
    ) -> dict[str, Tensor]:
        """One step of the critics: pessimism relative to the reference, and `beta` times the Bellman error.

        Args:
            batch: `[M, R, ...]` rows, recorded ones first.
            action: `[M, R, A]` of the policy.
            reference: `[M, N, A]` of the reference in the first `N` rows, those that are compared; None in the warm
                start, which has no pessimism.
            draws: for the policy's next actions.
        """
        settings = self.critic_updates
        discount = discount_unless_terminal(self.discount, batch.terminated)
        # Targets: no gradient passes through them.
        with torch.no_grad():
            next_action, _ = self.kind.play(draws.action[:, 1], *self.actor(batch.next_observation))
            next_value = self.kind.least_value(self.target_critic, batch.next_observation, next_action)
            target = settings.target(batch.reward, discount, next_value)
        # One forward pass of both critics over all states and actions at which their loss looks.
        queries = [(batch.observation, batch.action), (batch.next_observation, next_action)]
        if reference is not None:
            queries += [(batch.observation, action)]
            queries += [(batch.observation, reference)] if self.reference_policy != DATA else []
        value, next_value, *others = self.kind.values(self.critic, queries)
        bellman = dqra_loss(
            value, next_value, target, batch.reward, discount, settings.residual_weight, settings.clip_backup
        ).mean(-1)  # [2, M]
        pessimism = torch.zeros_like(bellman)
        if reference is not None:
            policy_value, reference_value = others[0], others[-1] if len(others) > 1 else value
            compared = relative_pessimism(policy_value, reference_value)[..., : reference.shape[1]]
            pessimism = compared.mean(-1)
        descend(self.critic_optimizer, normalized_sum(pessimism, bellman, self.beta).sum())
        # Back into the ball that bounds the critics, then the targets follow.
        settings.project(self.critic)
        follow(self.target_critic, self.critic, settings.target_rate)
        return {
            "bellman_error": bellman.detach().mean(0),
            "pessimism": pessimism.detach().mean(0),
            "value": value.detach().mean((0, 2)),
            "target": target.mean(-1),
        }

    def _update_dynamics(
        self, recorded: Transition, observation: Tensor, action: Tensor, reference: Tensor | None, draws: Draws
    ) -> dict[str, Tensor]:
        """One step of the model: likelihood of the recorded steps, and in the game how good it makes the policy look.

        Args:
            recorded: `[M, B, ...]` rows of the data.
            observation: `[M, R, D]` states of all rows.
            action: as for the critics.
            reference: as for the critics.
            draws: for the model's steps, and the policy's next actions.
        """
        target = step_targets(recorded)
        self.dynamics.scale.see(target)
        predicted = self.dynamics(recorded.observation, recorded.action)
        terms, weights = self.dynamics.losses(predicted, target, recorded.terminated)
        errors = self.dynamics.errors(predicted, target, recorded.terminated)
        metrics = {f"model_{name}": value.detach() for name, value in errors.items()}
        adversarial = self.dynamics_updates.adversarial
        if reference is not None and adversarial > 0:
            rows = reference.shape[1]
            seen = observation[:, :rows]
            value, reference_value = (self.value_ahead(seen, x[:, :rows], draws) for x in (action, reference))
            relative = relative_pessimism(value, reference_value).mean(-1)
            # In units of the values' size: else the model would rather end episodes than explain the data.
            size = reference_value.detach().abs().mean(-1)
            (size,) = average_over_ranks([size], [size])
            terms["relative_value"] = value_weight(adversarial, size) * relative
            weights["relative_value"] = 1.0
            metrics["model_relative_value"] = relative.detach()
        descend(self.dynamics_optimizer, weighted_sum(terms, weights).sum())
        return metrics

    def value_ahead(self, observation: Tensor, action: Tensor, draws: Draws) -> Tensor:
        """`[M, N]` backup `r + discount f(s', pi(s'))` of a step that is drawn from the model.

        Gradients pass to the model through the reward, the next state, and the chance that there is none.
        """
        rows = observation.shape[1]
        predicted = self.dynamics(observation, action)
        drawn = predicted.sample(draws.step[:, :rows])
        following, reward = observation + drawn[..., :-1], drawn[..., -1]
        next_action, _ = self.kind.play(draws.action[:, 1, :rows], *self.actor(following))
        value = self.kind.value(self.critic, self.actor_updates.critic, following, next_action)
        return bellman_backup(reward, self.discount * (1.0 - predicted.chance_of_ending()), value)

    # ------------------------------------------------------------------------------------------------------- phases
    def advance(self) -> None:
        super().advance()
        self._next_phase()
