"""SAC: soft actor-critic, for continuous and numbered actions, online and on recorded data.

Source: Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications" (https://arxiv.org/abs/1812.05905); of
numbered actions Christodoulou 2019, "Soft Actor-Critic for Discrete Action Settings"
(https://arxiv.org/abs/1910.07207). Two critics learn the soft value of actions, the lesser of which the policy ascends;
the weight of its entropy is learned so that the entropy stays above a floor. One update is that of stable-baselines3
2.9.0. The gradient of a policy of numbered actions is the exact expectation over all of them, or that of one sample by
an estimator.

One agent holds `M = seeds` members that never interact, stacked along the first axis of every weight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from modules.agent.action_kinds import ActionKind, DrawnNumbers, action_kind
from modules.agent.actor_critic_updates import CriticUpdates
from modules.agent.agent import Agent
from modules.agent.compiled import WholeUpdate, whole_update
from modules.agent.descent import descend, make_adam, weighted_sum
from modules.agent.entropy_floor import EntropyFloor, Temperature
from modules.agent.held_out_fit import held_out_fit
from modules.agent.policy_population import PolicyPopulation
from modules.agent.population import Population
from modules.arguments.changed import RUNNING, STARTED
from modules.arguments.checks import check_choice, check_kinds, check_ranges, check_widths
from modules.arguments.tunable import Change
from modules.batch import Spaces, Transition
from modules.contracts import Update
from modules.functional.gradient_estimators import ESTIMATORS, EstimatorName, find_estimator
from modules.functional.returns import discount_unless_terminal
from modules.functional.soft_values import entropy_bonus
from modules.networks.auxiliary_losses import collecting
from modules.networks.ensemble import INITIALIZERS, follow
from modules.networks.perception import MakeEncoder
from modules.networks.trunks import CRITICS, losses_by_member, make_twin_critics
from modules.networks.updates import set_noise

LOG_STD_RANGE = (-20.0, 2.0)
"""Clamp of the policy's log deviation before squashing, as in the authors' code."""

Gradient = Literal["expectation", EstimatorName]
"""Ways to the gradient of a policy of numbered actions."""


class SAC(PolicyPopulation, Agent):
    """Soft actor-critic with twin critics and a learned temperature.

    Args:
        spaces: observation and action spaces, announced by the datamodule.
        seeds: number of members, each with own initial weights, noise and (unless `shared_batch`) minibatches; one
            where the agent plays for its own data.
        seed: seed of the first member.
        shared_batch: whether all seeds learn from one minibatch per update instead of one each.
        discount: discount factor gamma per step.
        hidden: widths of the hidden layers of policy and critics.
        trunk: any layer instead of the hidden layers, such as `modules.experts.layer.SparseMoE` or a stack of them:
            called with `(features in, the last of the hidden widths)`, once for the policy and each critic.
        encoder: encoder of images, one for each network, such as `modules.networks.encoders.Encoder`; null is the usual
            one.
        initializer: initial weights, `torch_default` or `xavier_normal` with zero bias; a trunk has its own.
        actor_lr: Adam learning rate of the policy.
        critic_lr: Adam learning rate of the critics.
        temperature_lr: Adam learning rate of the log temperature; 0 keeps the temperature as it starts.
        gradient: gradient of a policy of numbered actions: their exact `expectation`, or that of one sample by
            `straight_through`, `gumbel_softmax` or `straight_through_gumbel`. Continuous actions are reparametrised.
        gumbel_temperature: temperature of the relaxed samples of the two Gumbel estimators; null is 1.
        critic: settings of how the critics learn; both critics have the same role here.
        entropy: floor under the policy's entropy, and where the temperature starts.
        compile: whether the whole update is compiled into one graph, half a minute at the start; `auto`: in a run of
            20,000 updates or more, of one process with a compiler; or `captured`, replayed as a CUDA graph.

    Raises:
        ValueError: spaces other than a flat Box or images, and a bounded flat Box or a Discrete space of actions,
            an encoder where there are no images, a gradient that the actions do not have, or an argument outside its
            range.
    """

    batch_type = Transition
    takes_images = True
    kind: ActionKind
    own: ActionKind
    fixed_on_resume: ClassVar[dict[str, str]] = {"seed": RUNNING, "initializer": STARTED}
    tunable: ClassVar[dict[str, Change]] = {
        **dict.fromkeys(("actor_lr", "critic_lr", "temperature_lr", "critic.target_rate"), "scale"),
        "discount": "horizon",
    }

    def __init__(
        self,
        spaces: Spaces | None = None,
        seeds: int = 1,
        seed: int = 0,
        shared_batch: bool = False,
        discount: float = 0.99,
        hidden: list[int] = [256, 256],  # noqa: B006 - read only; a list is what YAML gives
        trunk: Callable[[int, int], nn.Module] | None = None,
        encoder: MakeEncoder | None = None,
        initializer: Literal["torch_default", "xavier_normal"] = "torch_default",
        actor_lr: float = 3e-4,
        critic_lr: float = 3e-4,
        temperature_lr: float = 3e-4,
        gradient: Gradient = "expectation",
        gumbel_temperature: float | None = None,
        critic: CriticUpdates = CriticUpdates(residual_weight=0.0, projection_radius=None),
        entropy: EntropyFloor = EntropyFloor(),
        compile: WholeUpdate = "auto",
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["spaces"])
        check_ranges(
            ("discount", discount, 0.0, 1.0),
            ("actor_lr", actor_lr, 0.0, 1e3),
            ("critic_lr", critic_lr, 0.0, 1e3),
            ("temperature_lr", temperature_lr, 0.0, 1e3),
            *(("gumbel_temperature", x, 1e-3, 1e3) for x in [gumbel_temperature] if x is not None),
        )
        check_widths(hidden=hidden)
        check_choice("initializer", initializer, INITIALIZERS)
        check_choice("gradient", gradient, ("expectation", *ESTIMATORS))
        check_kinds(critic=(critic, CriticUpdates), entropy=(entropy, EntropyFloor))
        critic.check_twin("SAC")
        entropy.check_sum("SAC")
        self.estimator = None if gradient == "expectation" else find_estimator(gradient)
        if gumbel_temperature is not None and (self.estimator is None or not self.estimator.has_temperature):
            raise ValueError(
                f"gumbel_temperature {gumbel_temperature:g} would be ignored: gradient {gradient} has no temperature; "
                "leave it out"
            )
        # Everything random in a member comes from its own seed.
        self.population = Population("", [0.0], seeds, seed, shared_batch)
        # Arguments, as they are given.
        self.discount = discount
        self.hidden = list(hidden)
        self.trunk = trunk
        self.make_encoder = encoder
        self.initializer = INITIALIZERS[initializer]
        self.actor_lr = actor_lr
        self.critic_lr = critic_lr
        self.temperature_lr = temperature_lr
        self.gradient = gradient
        self.gumbel_temperature = 1.0 if gumbel_temperature is None else gumbel_temperature
        self.critic_updates = critic
        self.entropy = entropy
        self.compile_mode = whole_update(compile)
        self.build_for(spaces)

    def build(self, spaces: Spaces) -> None:
        d_observation, _ = self._observe(spaces, discrete=True)
        # How targets take the policy's actions, and how its own loss does.
        self.kind = self.own = action_kind(self.units)
        if self.estimator is not None:
            if not self.units.discrete:
                raise ValueError(
                    f"gradient {self.gradient} is of numbered actions, and these are {spaces.action}, which are "
                    "reparametrised: leave it out"
                )
            self.own = DrawnNumbers(self.units.width, self.estimator, self.gumbel_temperature)

        # Initial weights of the policy and of each critic come from a stream of their own per member.
        members = len(self.population)
        streams = [self.population.generators(stream) for stream in range(1 + CRITICS)]
        self.actor = self.kind.make_policy(
            members, d_observation, self.hidden, LOG_STD_RANGE, self.initializer, streams[0], self.trunk
        )
        set_noise(self.actor, False)  # its log-probabilities are the same in an update as where it acts
        d_in, d_out = self.kind.critic_widths(d_observation)
        self.critic, self.target_critic = make_twin_critics(
            members, d_in, self.hidden, d_out,
            self.initializer, streams[1:], self.trunk, self.critic_updates.layer_norm,
        )  # fmt: skip
        self.temperature = Temperature(self.entropy, members, self.kind, self.temperature_lr)
        self.log_temperature = self.temperature.log_temperature
        self.actor_optimizer = make_adam(self.actor.parameters(), self.actor_lr)
        self.critic_optimizer = make_adam(self.critic.parameters(), self.critic_lr)
        self.temperature_optimizer = self.temperature.optimizer

    @torch.no_grad()
    def evaluate_losses(self, batch: TensorDictBase | Transition) -> dict[str, Tensor]:
        """Held-out `[M]` fit of policy and critics; batches are shared.

        The next value in the targets is that of the policy's most likely action, with the entropy of the policy.
        """
        rows = self._split(self.read(batch), 1)
        discount = discount_unless_terminal(self.discount, rows.terminated)
        bonus = entropy_bonus(-self.kind.entropy(*self.actor(rows.next_observation)), self.temperature.value())

        def backup(next_value: Tensor) -> Tensor:
            return self.critic_updates.target(rows.reward, discount, next_value + bonus)

        return held_out_fit(self.kind, self.actor, self.critic, self.target_critic, rows, backup)

    # -------------------------------------------------------------------------------------------------------- update
    def noise_for(self, batch: Transition) -> Tensor:
        """`[seeds, B, N]` standard normal draws of the members' generators: for the actions at s', then for those at s.

        Numbered actions at s' are not drawn, and those at s only for an estimator: `N` may be 0.
        """
        shape = (len(batch.reward) // self.population.minibatches, self.kind.d_noise + self.own.d_noise)
        return self.population.draw(shape, self.device, self.rank)

    def learn(self, transition: Transition, noise: Tensor) -> Update:
        """One update of temperature, critics, policy and target critics, in this order (stable-baselines3).

        Args:
            transition: `[B]` rows shared by all seeds, or `[seeds * B]` with one minibatch per seed, seed-major.
            noise: draws of `noise_for`.
        """
        batch = self._split(transition, self.population.minibatches)
        next_noise, noise = self.population.for_members(noise).split([self.kind.d_noise, self.own.d_noise], -1)
        # One pass of the policy serves the temperature and the policy's own loss.
        with collecting(self.actor.network) as auxiliary:
            statistics = self.actor(batch.observation)
        balance, balance_weights = losses_by_member(self.actor.network, auxiliary)
        action, log_prob = self.own.play(noise, *statistics)
        log_prob = log_prob.sum(-1)  # [M, B]
        # What an update weighs is the temperature from before it; the entropy is exact where it can be.
        temperature = self.temperature.value()
        entropy = (self.kind.entropy(*statistics) if self.units.discrete else -log_prob).mean(-1).detach()
        self.temperature.update(entropy)
        metrics = self._update_critic(batch, next_noise, temperature)
        # The policy ascends the new critics.
        value = self.kind.least_value(self.critic, batch.observation, action)
        objective = (value + entropy_bonus(log_prob, temperature)).mean(-1)
        terms = {"soft_value": -objective, **balance}
        descend(self.actor_optimizer, weighted_sum(terms, {"soft_value": 1.0, **balance_weights}).sum())
        follow(self.target_critic, self.critic, self.critic_updates.target_rate)
        metrics |= {
            "negative_value": -value.detach().mean(-1),
            "entropy": entropy,
            "temperature": temperature,
            **{f"actor/{name}": x.detach() for name, x in balance.items()},
        }
        return Update(metrics)

    def _update_critic(self, batch: Transition, noise: Tensor, temperature: Tensor) -> dict[str, Tensor]:
        settings = self.critic_updates
        discount = discount_unless_terminal(self.discount, batch.terminated)
        # Targets: no gradient passes through them. Of numbered actions they are expectations, whatever the gradient.
        with torch.no_grad():
            next_action, log_prob = self.kind.play(noise, *self.actor(batch.next_observation))
            bonus = entropy_bonus(log_prob.sum(-1), temperature)
            next_value = self.kind.least_value(self.target_critic, batch.next_observation, next_action) + bonus
            target = settings.target(batch.reward, discount, next_value)
        # The residual looks at the critics at the next action, too; without it they are not evaluated there.
        queries = [(batch.observation, self.kind.as_played(batch.action))]
        if settings.residual_weight > 0:
            queries.append((batch.next_observation, next_action))
        with collecting(self.critic) as auxiliary:
            value, *ahead = self.kind.values(self.critic, queries)
        balance, balance_weights = losses_by_member(self.critic, auxiliary)
        balance = {name: x.view(CRITICS, -1) for name, x in balance.items()}
        soft_ahead = ahead[0] + bonus if ahead else None
        bellman = settings.errors(value, soft_ahead, target, batch.reward, discount).mean(-1)  # [2, M]
        loss = weighted_sum({"bellman": bellman, **balance}, {"bellman": 0.5, **balance_weights})
        descend(self.critic_optimizer, loss.sum())
        settings.project(self.critic)
        return {
            "bellman_error": bellman.detach().mean(0),
            "value": value.detach().mean((0, 2)),
            "target": target.mean(-1),
            **{f"critic/{name}": x.detach().mean(0) for name, x in balance.items()},
        }
