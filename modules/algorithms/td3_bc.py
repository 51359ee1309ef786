"""TD3+BC: the deterministic policy of TD3, held to the data by a cloning term, on offline data.

Source: Fujimoto & Gu 2021, "A Minimalist Approach to Offline Reinforcement Learning"
(https://arxiv.org/abs/2106.06860), on TD3 (Fujimoto, van Hoof & Meger 2018, https://arxiv.org/abs/1802.09477). The
policy ascends the first of two critics and is drawn to the data's actions by their squared distance; `alpha` weighs
values, divided by their mean size, against that distance. An update is that of d3rlpy 2.8.1, number for number.

One agent holds `M = len(alpha) * seeds` members that never interact, stacked along the first axis of every weight.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable
from typing import Any, ClassVar, Literal

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
from modules.arguments.checks import check_choice, check_counts, check_kinds, check_ranges, check_widths
from modules.batch import Spaces, Transition
from modules.contracts import Update
from modules.functional.deterministic_policy import action_distance, smoothed_action, value_weight
from modules.functional.held_out import critic_errors
from modules.functional.returns import discount_unless_terminal
from modules.networks.auxiliary_losses import collecting
from modules.networks.ensemble import INITIALIZERS, follow
from modules.networks.perception import MakeEncoder
from modules.networks.policies import TanhPolicy
from modules.networks.replicas import average_over_ranks
from modules.networks.trunks import CRITICS, losses_by_member, make_twin_critics, twin_values
from modules.networks.updates import set_noise


class TD3BC(PolicyPopulation, Agent):
    """TD3 with behaviour cloning, of bounded continuous actions.

    Args:
        spaces: observation and action spaces, announced by the datamodule.
        alpha: weight of values against cloning, 0 is cloning alone; a list trains one member per value.
        seeds: number of members per alpha, each with own initial weights, noise and (unless `shared_batch`)
            minibatches.
        seed: seed of the first member of each alpha.
        shared_batch: whether all seeds learn from one minibatch per update instead of one each.
        discount: discount factor gamma per step.
        hidden: widths of the hidden layers of policy and critics.
        trunk: any layer instead of the hidden layers, called with `(features in, the last of the hidden widths)`, once
            for the policy and each critic.
        encoder: encoder of images, one for each network, such as `modules.networks.encoders.Encoder`; null is the usual
            one.
        initializer: initial weights, `xavier_normal` with zero bias or `torch_default`; a trunk has its own.
        critic_lr: Adam learning rate of the critics.
        actor_lr: Adam learning rate of the policy.
        actor_interval: updates of the critics per update of the policy and of all target networks, which comes with the
            last of them.
        noise_deviation: standard deviation of the noise on the target policy's actions, which lie in [-1, 1].
        noise_limit: largest size of that noise.
        critic: settings of how the critics learn; both are alike, so its `roles` are `twin`.
        compile: whether the whole update is compiled into one graph, half a minute at the start; `auto`: in a run of
            20,000 updates or more, of one process with a compiler; or `captured`, replayed as a CUDA graph.

    Raises:
        ValueError: spaces other than a flat Box or images, and a bounded flat Box of actions, roles of critics
            that are not alike, an encoder where there are no images, or an argument outside its range.
    """

    batch_type = Transition
    takes_images = True
    fixed_on_resume: ClassVar[dict[str, str]] = {"seed": RUNNING, "initializer": STARTED}
    actor: TanhPolicy
    alpha: Tensor

    def __init__(
        self,
        spaces: Spaces | None = None,
        alpha: float | list[float] = 2.5,
        seeds: int = 1,
        seed: int = 0,
        shared_batch: bool = False,
        discount: float = 0.99,
        hidden: list[int] = [256, 256],  # noqa: B006 - read only; a list is what YAML gives
        trunk: Callable[[int, int], nn.Module] | None = None,
        encoder: MakeEncoder | None = None,
        initializer: Literal["xavier_normal", "torch_default"] = "torch_default",
        critic_lr: float = 3e-4,
        actor_lr: float = 3e-4,
        actor_interval: int = 2,
        noise_deviation: float = 0.2,
        noise_limit: float = 0.5,
        critic: CriticUpdates = CriticUpdates(residual_weight=0.0, projection_radius=None),
        compile: WholeUpdate = "auto",
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["spaces"])
        alphas = one_or_more(alpha)
        check_ranges(
            *(("alpha", x, 0.0, 1e12) for x in alphas),
            ("discount", discount, 0.0, 1.0),
            ("critic_lr", critic_lr, 0.0, 1e3),
            ("actor_lr", actor_lr, 0.0, 1e3),
            ("noise_deviation", noise_deviation, 0.0, 1e3),
            ("noise_limit", noise_limit, 0.0, 2.0),
        )
        check_counts(1, actor_interval=actor_interval)
        check_widths(hidden=hidden)
        check_choice("initializer", initializer, INITIALIZERS)
        check_kinds(critic=(critic, CriticUpdates))
        critic.check_twin("TD3BC")
        # One group of members per alpha; everything random in a member comes from its own seed.
        self.population = Population("alpha", alphas, seeds, seed, shared_batch)
        self.discount = discount
        self.hidden = list(hidden)
        self.trunk = trunk
        self.make_encoder = encoder
        self.initializer = INITIALIZERS[initializer]
        self.critic_lr = critic_lr
        self.actor_lr = actor_lr
        self.actor_interval = actor_interval
        self.noise_deviation = noise_deviation
        self.noise_limit = noise_limit
        self.critic_updates = critic
        self.compile_mode = whole_update(compile)
        self._take_turn()
        self.build_for(spaces)

    def build(self, spaces: Spaces) -> None:
        d_observation, d_action = self._observe(spaces)
        members = len(self.population)
        self.register_buffer("alpha", self.population.per_member(), persistent=False)

        # Initial weights of the policy and of each critic come from a stream of their own per member.
        streams = [self.population.generators(stream) for stream in range(1 + CRITICS)]
        actor = TanhPolicy(members, d_observation, d_action, self.hidden, self.initializer, streams[0], self.trunk)
        set_noise(actor, False)  # it acts
        self.actor = actor
        self.target_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.critic, self.target_critic = make_twin_critics(
            members, d_observation + d_action, self.hidden, 1,
            self.initializer, streams[1:], self.trunk, self.critic_updates.layer_norm,
        )  # fmt: skip
        self.actor_optimizer = make_adam(self.actor.parameters(), self.actor_lr)
        self.critic_optimizer = make_adam(self.critic.parameters(), self.critic_lr)

    @torch.no_grad()
    def evaluate_losses(self, batch: TensorDictBase | Transition) -> dict[str, Tensor]:
        """Held-out `[M]` fit of policy and critics, with target actions that are not smoothed; batches are shared."""
        rows = self._split(self.read(batch), 1)
        action = self.actor.likeliest(rows.observation)
        value = twin_values(self.critic, rows.observation, rows.action)
        policy_value = twin_values(self.critic, rows.observation, action)
        target = self._target(rows, self.target_actor.likeliest(rows.next_observation))
        cloning = action_distance(action, rows.action).mean(-1)
        return critic_errors(value, target, policy_value) | {"cloning_loss": cloning}

    # -------------------------------------------------------------------------------------------------------- update
    @property
    def branch(self) -> Hashable:
        return self.actor_turn

    def noise_for(self, batch: Transition) -> Tensor:
        """`[seeds, B, A]` standard normal draws for the actions at s', of the members' generators."""
        shape = (len(batch.reward) // self.population.minibatches, batch.action.shape[-1])
        return self.population.draw(shape, self.device, self.rank)

    def learn(self, transition: Transition, noise: Tensor) -> Update:
        """One update of the critics, and where it is its turn of the policy and of all targets, in this order.

        Args:
            transition: `[B]` rows shared by all seeds, or `[seeds * B]` with one minibatch per seed, seed-major.
            noise: draws of `noise_for`.
        """
        batch = self._split(transition, self.population.minibatches)
        noise = self.population.for_members(noise)
        metrics = self._update_critic(batch, noise)
        if self.actor_turn:
            metrics |= self._update_actor(batch)
            follow(self.target_critic, self.critic, self.critic_updates.target_rate)
            follow(self.target_actor, self.actor, self.critic_updates.target_rate)
        return Update(metrics)

    def _update_critic(self, batch: Transition, noise: Tensor) -> dict[str, Tensor]:
        settings = self.critic_updates
        # Targets: no gradient passes through them.
        with torch.no_grad():
            next_action = self.target_actor.likeliest(batch.next_observation)
            next_action = smoothed_action(next_action, noise, self.noise_deviation, self.noise_limit)
            target = self._target(batch, next_action)
        # The residual looks at the critics at the next action, too; without it they are not evaluated there.
        observation, action = batch.observation, batch.action
        if settings.residual_weight > 0:
            observation = torch.cat([observation, batch.next_observation], 1)
            action = torch.cat([action, next_action], 1)
        with collecting(self.critic) as auxiliary:
            value, *next_value = twin_values(self.critic, observation, action).split(batch.reward.shape[1], -1)
        balance, balance_weights = losses_by_member(self.critic, auxiliary)
        balance = {name: x.view(CRITICS, -1) for name, x in balance.items()}
        discount = discount_unless_terminal(self.discount, batch.terminated)
        ahead = next_value[0] if next_value else None
        bellman = settings.errors(value, ahead, target, batch.reward, discount).mean(-1)  # [2, M]
        loss = weighted_sum({"bellman": bellman, **balance}, {"bellman": 1.0, **balance_weights})
        descend(self.critic_optimizer, loss.sum())
        settings.project(self.critic)
        return {
            "bellman_error": bellman.detach().mean(0),
            "value": value.detach().mean((0, 2)),
            "target": target.mean(-1),
            **{f"critic/{name}": x.detach().mean(0) for name, x in balance.items()},
        }

    def _update_actor(self, batch: Transition) -> dict[str, Tensor]:
        with collecting(self.actor.network) as auxiliary:
            action = self.actor.likeliest(batch.observation)
        balance, balance_weights = losses_by_member(self.actor.network, auxiliary)
        value = twin_values(self.critic, batch.observation, action, 0)[0]  # by the first critic, just updated
        # The size of values is that of all ranks' rows, so that ranks learn what one process would.
        size = value.detach().abs().mean(-1)
        (size,) = average_over_ranks([size], [size])
        weight = value_weight(self.alpha, size)
        objective = -value.mean(-1)
        cloning = action_distance(action, batch.action).mean(-1)
        terms = {"both": weight * objective + cloning, **balance}
        descend(self.actor_optimizer, weighted_sum(terms, {"both": 1.0, **balance_weights}).sum())
        return {
            "negative_value": objective.detach(),
            "cloning_loss": cloning.detach(),
            "value_weight": weight,
            **{f"actor/{name}": x.detach() for name, x in balance.items()},
        }

    def _target(self, batch: Transition, next_action: Tensor) -> Tensor:
        """`[M, B]` backup of the smaller of the target critics' values at the next action."""
        next_value = twin_values(self.target_critic, batch.next_observation, next_action).amin(0)
        discount = discount_unless_terminal(self.discount, batch.terminated)
        return self.critic_updates.target(batch.reward, discount, next_value)

    # --------------------------------------------------------------------------------------- turns and checkpoints
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self._take_turn()

    def advance(self) -> None:
        super().advance()
        self._take_turn()

    def _take_turn(self) -> None:
        # Read by `learn` instead of the counter: a compiled update is then two graphs, not one per step. The last of an
        # interval, as in the official code: metrics are logged behind such an update, and the policy's are among them.
        self.actor_turn = (self.updates + 1) % self.actor_interval == 0
