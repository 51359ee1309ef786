"""IQL: values of the best actions that the data hold, without asking for any other, and a policy that imitates those.

Source: Kostrikov, Nair & Levine 2021, "Offline Reinforcement Learning with Implicit Q-Learning"
(https://arxiv.org/abs/2110.06169). The value of a state is an upper expectile of its recorded actions' values, learned
by an asymmetric squared error; the critics learn from it by temporal differences; the policy clones the data, each
action with a weight that grows with its advantage. One update is d3rlpy 2.8.1's. The paper has continuous actions; what
is done for numbered ones is derived here: critics with a value per action, and a categorical policy.

One agent holds `M = len(expectile) * seeds` members that never interact, stacked along the first axis of every weight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from modules.agent.actor_critic_updates import CriticUpdates
from modules.agent.agent import Agent
from modules.agent.compiled import WholeUpdate, whole_update
from modules.agent.descent import descend, make_adam, weighted_sum
from modules.agent.policy_population import PolicyPopulation
from modules.agent.population import Population, one_or_more
from modules.arguments.changed import RUNNING, STARTED
from modules.arguments.checks import check_choice, check_kinds, check_ranges, check_widths
from modules.batch import Spaces, Transition
from modules.contracts import Update
from modules.functional.expectiles import advantage_weight, expectile_loss
from modules.functional.held_out import critic_errors
from modules.functional.pessimism import dqra_loss
from modules.functional.returns import discount_unless_terminal
from modules.networks.auxiliary_losses import collecting
from modules.networks.ensemble import INITIALIZERS, follow
from modules.networks.perception import MakeEncoder
from modules.networks.policies import BoundedGaussianPolicy, CategoricalPolicy
from modules.networks.trunks import (
    CRITICS,
    Ensemble,
    losses_by_member,
    make_ensemble,
    make_twin_critics,
    twin_action_values,
    twin_values,
    values_of,
)
from modules.networks.updates import set_noise

LOG_STD_RANGE = (-5.0, 2.0)
"""Range of the policy's log deviations, as in the official code and d3rlpy."""


class IQL(PolicyPopulation, Agent):
    """Implicit Q-learning for continuous or numbered actions.

    Args:
        spaces: observation and action spaces, announced by the datamodule.
        expectile: which expectile of its recorded actions' values a state's value is: 0.5 is their mean, near 1 their
            maximum; a list trains one member per value.
        seeds: number of members per expectile, each with own initial weights and (unless `shared_batch`) minibatches.
        seed: seed of the first member of each expectile.
        shared_batch: whether all seeds learn from one minibatch per update instead of one each.
        discount: discount factor gamma per step.
        hidden: widths of the hidden layers of policy, critics and value network.
        trunk: any layer instead of the hidden layers, such as `modules.experts.layer.SparseMoE` or a stack of them:
            called with `(features in, the last of the hidden widths)`, once for each network.
        encoder: encoder of images, one for each network, such as `modules.networks.encoders.Encoder`; null is the usual
            one.
        initializer: initial weights, `torch_default` or `xavier_normal` with zero bias; a trunk has its own.
        actor_lr: Adam learning rate of the policy.
        critic_lr: Adam learning rate of critics and value network.
        inverse_temperature: how sharply an action's weight in the cloning grows with its advantage; 0 is plain cloning.
        max_weight: largest weight of an action in the cloning.
        critic: settings of how the critics learn; both critics have the same role here.
        compile: whether the whole update is compiled into one graph, half a minute at the start; `auto`: in a run of
            20,000 updates or more, of one process with a compiler; or `captured`, replayed as a CUDA graph.

    Raises:
        ValueError: spaces other than a flat Box or images, and a bounded flat Box or a Discrete space of actions,
            an encoder where there are no images, or an argument outside its range.
    """

    batch_type = Transition
    takes_images = True
    actor: BoundedGaussianPolicy | CategoricalPolicy
    fixed_on_resume: ClassVar[dict[str, str]] = {"seed": RUNNING, "initializer": STARTED}
    expectile: Tensor

    def __init__(
        self,
        spaces: Spaces | None = None,
        expectile: float | list[float] = 0.7,
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
        inverse_temperature: float = 3.0,
        max_weight: float = 100.0,
        critic: CriticUpdates = CriticUpdates(residual_weight=0.0, projection_radius=None),
        compile: WholeUpdate = "auto",
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["spaces"])
        expectiles = one_or_more(expectile)
        check_ranges(
            *(("expectile", x, 1e-6, 1.0 - 1e-6) for x in expectiles),
            ("discount", discount, 0.0, 1.0),
            ("actor_lr", actor_lr, 0.0, 1e3),
            ("critic_lr", critic_lr, 0.0, 1e3),
            ("inverse_temperature", inverse_temperature, 0.0, 1e6),
            ("max_weight", max_weight, 1e-6, 1e12),
        )
        check_widths(hidden=hidden)
        check_choice("initializer", initializer, INITIALIZERS)
        check_kinds(critic=(critic, CriticUpdates))
        critic.check_twin("IQL")
        # One group of members per expectile; everything random in a member comes from its own seed.
        self.population = Population("expectile", expectiles, seeds, seed, shared_batch)
        # Arguments, as they are given.
        self.discount = discount
        self.hidden = list(hidden)
        self.trunk = trunk
        self.make_encoder = encoder
        self.initializer = INITIALIZERS[initializer]
        self.actor_lr = actor_lr
        self.critic_lr = critic_lr
        self.inverse_temperature = inverse_temperature
        self.max_weight = max_weight
        self.critic_updates = critic
        self.compile_mode = whole_update(compile)
        self.build_for(spaces)

    def build(self, spaces: Spaces) -> None:
        d_observation, width = self._observe(spaces, discrete=True)
        self.register_buffer("expectile", self.population.per_member(), persistent=False)

        # Initial weights of policy, critics and value network come from a stream of their own per member.
        members = len(self.population)
        streams = [self.population.generators(stream) for stream in range(2 + CRITICS)]
        sizes = (members, d_observation, width, self.hidden)
        if self.units.discrete:
            self.actor = CategoricalPolicy(*sizes, self.initializer, streams[0], self.trunk)
        else:
            self.actor = BoundedGaussianPolicy(*sizes, LOG_STD_RANGE, self.initializer, streams[0], self.trunk)
        set_noise(self.actor, False)  # it acts
        # Critics of numbered actions give all of them a value at once.
        d_in, d_out = (d_observation, width) if self.units.discrete else (d_observation + width, 1)
        self.critic, self.target_critic = make_twin_critics(
            members, d_in, self.hidden, d_out,
            self.initializer, streams[1:3], self.trunk, self.critic_updates.layer_norm,
        )  # fmt: skip
        self.state_value = make_ensemble(
            members, d_observation, self.hidden, 1, self.initializer, streams[3], self.trunk,
            self.critic_updates.layer_norm,
        )  # fmt: skip
        set_noise(self.state_value, False)  # the critics' targets and the policy's weights are read from it
        self.actor_optimizer = make_adam(self.actor.parameters(), self.actor_lr)
        self.critic_optimizer = make_adam([*self.critic.parameters(), *self.state_value.parameters()], self.critic_lr)

    @torch.no_grad()
    def evaluate_losses(self, batch: TensorDictBase | Transition) -> dict[str, Tensor]:
        """Held-out `[M]` fit of policy, critics and value network; batches are shared."""
        rows = self._split(self.read(batch), 1)
        value, likeliest = self._values(self.critic, rows, rows.action), self.actor.likeliest(rows.observation)
        target_value = self._values(self.target_critic, rows, rows.action).amin(0)
        state_value, next_value = self._state_values(rows)
        discount = discount_unless_terminal(self.discount, rows.terminated)
        target = self.critic_updates.target(rows.reward, discount, next_value)
        log_prob = self.actor.log_prob(rows.action, *self.actor(rows.observation)).sum(-1)
        errors = critic_errors(value, target, self._values(self.critic, rows, likeliest)) | {
            "expectile_loss": expectile_loss(target_value - state_value, self.expectile[:, None]).mean(-1),
            "negative_log_likelihood": -log_prob.mean(-1),
        }
        if self.units.discrete:
            return errors | {"accuracy": (likeliest == rows.action).float().mean(-1)}
        return errors | {"action_error": (likeliest - rows.action).square().sum(-1).mean(-1)}

    # -------------------------------------------------------------------------------------------------------- update
    def learn(self, transition: Transition) -> Update:
        """One update of critics and value network, then of the policy, then of the target critics (d3rlpy).

        Args:
            transition: `[B]` rows shared by all seeds, or `[seeds * B]` with one minibatch per seed, seed-major.
        """
        batch = self._split(transition, self.population.minibatches)
        with torch.no_grad():
            target_value = self._values(self.target_critic, batch, batch.action).amin(0)
        metrics = self._update_critic(batch, target_value)
        # The policy's weights come from the new value network, and from the target critics before they move.
        with torch.no_grad():
            advantage = target_value - self.state_value(batch.observation).squeeze(-1)
            weight = advantage_weight(advantage, self.inverse_temperature, self.max_weight)
        with collecting(self.actor.network) as auxiliary:
            statistics = self.actor(batch.observation)
        balance, balance_weights = losses_by_member(self.actor.network, auxiliary)
        cloning = -(weight * self.actor.log_prob(batch.action, *statistics).sum(-1)).mean(-1)
        loss = weighted_sum({"cloning": cloning, **balance}, {"cloning": 1.0, **balance_weights})
        descend(self.actor_optimizer, loss.sum())
        follow(self.target_critic, self.critic, self.critic_updates.target_rate)
        metrics |= {
            "weighted_cloning_loss": cloning.detach(),
            "advantage": advantage.mean(-1),
            "weight": weight.mean(-1),
            "at_max_weight": (weight >= self.max_weight).float().mean(-1),
        }
        return Update(metrics | {f"actor/{name}": x.detach() for name, x in balance.items()})

    def _update_critic(self, batch: Transition, target_value: Tensor) -> dict[str, Tensor]:
        settings = self.critic_updates
        discount = discount_unless_terminal(self.discount, batch.terminated)
        # One pass of each network: the value network's serves its own loss and the critics' targets.
        with collecting(self.critic) as auxiliary, collecting(self.state_value) as state_auxiliary:
            value = self._values(self.critic, batch, batch.action)
            state_value, next_value = self._state_values(batch)
        balance, balance_weights = losses_by_member(self.critic, auxiliary)
        balance = {name: x.view(CRITICS, -1).sum(0) for name, x in balance.items()}
        state_balance, state_weights = losses_by_member(self.state_value, state_auxiliary)
        # Of the residual, a share of 0 in IQL, the gradient flows into the value network, too.
        target = settings.target(batch.reward, discount, next_value.detach())
        error = dqra_loss(
            value, next_value, target, batch.reward, discount, settings.residual_weight, settings.clip_backup
        ).mean(-1)  # fmt: skip
        expectile = expectile_loss(target_value - state_value, self.expectile[:, None]).mean(-1)  # [M]
        # Critics and value network have one optimiser for the sum of their losses.
        terms = {"error": error.sum(0), "expectile": expectile}
        terms |= {f"critic/{name}": x for name, x in balance.items()}
        terms |= {f"state_value/{name}": x for name, x in state_balance.items()}
        weights = {"error": 1.0, "expectile": 1.0}
        weights |= {f"critic/{name}": x for name, x in balance_weights.items()}
        weights |= {f"state_value/{name}": x for name, x in state_weights.items()}
        descend(self.critic_optimizer, weighted_sum(terms, weights).sum())
        settings.project(self.critic)
        return {
            "bellman_error": error.detach().mean(0),
            "expectile_loss": expectile.detach(),
            "value": value.detach().mean((0, 2)),
            "state_value": state_value.detach().mean(-1),
            "target": target.mean(-1),
            **{f"critic/{name}": x.detach() / CRITICS for name, x in balance.items()},
            **{f"state_value/{name}": x.detach() for name, x in state_balance.items()},
        }

    def _values(self, critics: Ensemble, batch: Transition, action: Tensor) -> Tensor:
        """`[2, M, B]` values of actions at s, boxes or numbers."""
        if self.units.discrete:
            return values_of(twin_action_values(critics, batch.observation), action)
        return twin_values(critics, batch.observation, action)

    def _state_values(self, batch: Transition) -> tuple[Tensor, Tensor]:
        """`[M, B]` values of s and s', in one pass."""
        values = self.state_value(torch.cat([batch.observation, batch.next_observation], 1)).squeeze(-1)
        now, ahead = values.chunk(2, dim=-1)
        return now, ahead
