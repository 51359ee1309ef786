"""CQL: soft actor-critic on offline data, whose critics are pushed down at actions that the data do not hold.

Source: Kumar, Zhou, Tucker & Levine 2020, "Conservative Q-Learning for Offline Reinforcement Learning"
(https://arxiv.org/abs/2006.04779), CQL(H); one update is that of d3rlpy 2.8.1. Besides the error of temporal
differences the critics minimise the gap between the log-sum-exp of their values over all actions, estimated from
random actions and the policy's own, and their value at the data's action.

One agent holds `M = len(conservative_weight) * seeds` members that never interact, stacked along the first axis of
every weight.
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
from modules.agent.multiplier import Constraint, Multiplier
from modules.agent.policy_population import PolicyPopulation
from modules.agent.population import Population, one_or_more
from modules.arguments.changed import RUNNING, STARTED
from modules.arguments.checks import check_choice, check_kinds, check_ranges, check_widths
from modules.batch import Spaces, Transition
from modules.contracts import Update
from modules.functional.conservatism import conservative_gap, uniform_actions, uniform_log_density
from modules.functional.distributions import tanh_normal_sample
from modules.functional.held_out import actor_critic_errors
from modules.functional.returns import discount_unless_terminal
from modules.functional.soft_values import entropy_bonus
from modules.networks.auxiliary_losses import collecting
from modules.networks.ensemble import INITIALIZERS, follow
from modules.networks.perception import MakeEncoder
from modules.networks.policies import TanhGaussianPolicy
from modules.networks.trunks import CRITICS, losses_by_member, make_twin_critics, twin_values
from modules.networks.updates import set_noise

LOG_STD_RANGE = (-20.0, 2.0)
"""Clamp of the policy's log deviation before squashing, as in the official code and d3rlpy."""


MOST_SAMPLES = 10_000
"""Of each kind per row: both critics value three times as many for every row of a batch."""


class CQL(PolicyPopulation, Agent):
    """Conservative Q-learning for continuous actions, CQL(H).

    Args:
        spaces: observation and action spaces, announced by the datamodule.
        conservative_weight: weight of the gap between all actions' values and the data's against the error of temporal
            differences; a list trains one member per value.
        seeds: number of members per weight, each with own initial weights, noise and (unless `shared_batch`)
            minibatches.
        seed: seed of the first member of each weight.
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
        initial_temperature: weight of the policy's entropy at the start.
        target_entropy: floor of the policy's entropy in nats; `auto` is minus the action dimension.
        action_samples: number of actions per row from each of the three distributions that the gap is estimated from.
        backup: next action in the targets: the policy's `likeliest`, one `sampled` from it, or one sampled with its
            entropy as reward (`soft`).
        multiplier: the gap that is allowed, if the weight is to follow it.
        critic: settings of how the critics learn; both critics have the same role here.
        compile: whether the whole update is compiled into one graph, half a minute at the start; `auto`: in a run of
            20,000 updates or more, of one process with a compiler; or `captured`, replayed as a CUDA graph.

    Raises:
        ValueError: spaces other than a flat Box or images, and a bounded flat Box of actions, an encoder
            where there are no images, or an argument outside its range.
    """

    batch_type = Transition
    takes_images = True
    actor: TanhGaussianPolicy
    fixed_on_resume: ClassVar[dict[str, str]] = {"seed": RUNNING, "initializer": STARTED}
    weight: Tensor

    def __init__(
        self,
        spaces: Spaces | None = None,
        conservative_weight: float | list[float] = 5.0,
        seeds: int = 1,
        seed: int = 0,
        shared_batch: bool = False,
        discount: float = 0.99,
        hidden: list[int] = [256, 256],  # noqa: B006 - read only; a list is what YAML gives
        trunk: Callable[[int, int], nn.Module] | None = None,
        encoder: MakeEncoder | None = None,
        initializer: Literal["torch_default", "xavier_normal"] = "torch_default",
        actor_lr: float = 1e-4,
        critic_lr: float = 3e-4,
        temperature_lr: float = 1e-4,
        initial_temperature: float = 1.0,
        target_entropy: float | Literal["auto"] = "auto",
        action_samples: int = 10,
        backup: Literal["likeliest", "sampled", "soft"] = "likeliest",
        multiplier: Constraint = Constraint(),
        critic: CriticUpdates = CriticUpdates(residual_weight=0.0, projection_radius=None),
        compile: WholeUpdate = "auto",
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["spaces"])
        weights = one_or_more(conservative_weight)
        check_ranges(
            *(("conservative_weight", w, 0.0, 1e12) for w in weights),
            ("discount", discount, 0.0, 1.0),
            ("actor_lr", actor_lr, 0.0, 1e3),
            ("critic_lr", critic_lr, 0.0, 1e3),
            ("temperature_lr", temperature_lr, 0.0, 1e3),
            ("action_samples", action_samples, 1, MOST_SAMPLES),
            ("initial_temperature", initial_temperature, 1e-30, 1e6),
            *(("target_entropy", floor, -1e12, 1e12) for floor in [target_entropy] if floor != "auto"),
        )
        check_widths(hidden=hidden)
        check_choice("initializer", initializer, INITIALIZERS)
        check_choice("backup", backup, ("likeliest", "sampled", "soft"))
        check_kinds(multiplier=(multiplier, Constraint), critic=(critic, CriticUpdates))
        critic.check_twin("CQL")
        # One group of members per weight; everything random in a member comes from its own seed.
        self.population = Population("conservative_weight", weights, seeds, seed, shared_batch)
        # Arguments, as they are given.
        self.discount = discount
        self.hidden = list(hidden)
        self.trunk = trunk
        self.make_encoder = encoder
        self.initializer = INITIALIZERS[initializer]
        self.actor_lr = actor_lr
        self.critic_lr = critic_lr
        self.temperature_lr = temperature_lr
        self.initial_temperature = initial_temperature
        self.target_entropy = target_entropy
        self.action_samples = action_samples
        self.backup = backup
        self.constraint = multiplier
        self.critic_updates = critic
        self.compile_mode = whole_update(compile)
        self.build_for(spaces)

    def build(self, spaces: Spaces) -> None:
        d_observation, d_action = self._observe(spaces)
        self.register_buffer("weight", self.population.per_member(), persistent=False)
        self.entropy_floor = -float(d_action) if self.target_entropy == "auto" else self.target_entropy
        self.uniform_log_density = uniform_log_density(d_action)

        # Initial weights of the policy and of each critic come from a stream of their own per member.
        members = len(self.population)
        streams = [self.population.generators(stream) for stream in range(1 + CRITICS)]
        self.actor = TanhGaussianPolicy(
            members, d_observation, d_action, self.hidden, LOG_STD_RANGE, self.initializer, streams[0], self.trunk
        )
        set_noise(self.actor, False)  # its log-probabilities are the same in an update as where it acts
        self.critic, self.target_critic = make_twin_critics(
            members, d_observation + d_action, self.hidden, 1,
            self.initializer, streams[1:], self.trunk, self.critic_updates.layer_norm,
        )  # fmt: skip
        self.temperature = Multiplier([self.initial_temperature] * members, self.temperature_lr)
        self.multiplier = Multiplier([1.0] * members, self.constraint.lr)
        self.actor_optimizer = make_adam(self.actor.parameters(), self.actor_lr)
        self.critic_optimizer = make_adam(self.critic.parameters(), self.critic_lr)

    @torch.no_grad()
    def evaluate_losses(self, batch: TensorDictBase | Transition) -> dict[str, Tensor]:
        """Held-out `[M]` fit of policy and critics, at the policy's most likely action; batches are shared."""
        rows = self._split(self.read(batch), 1)
        mean, log_std = self.actor(rows.observation)
        next_action = self.actor.likeliest(rows.next_observation)
        next_value = twin_values(self.target_critic, rows.next_observation, next_action).amin(0)
        discount = discount_unless_terminal(self.discount, rows.terminated)
        return actor_critic_errors(
            twin_values(self.critic, rows.observation, rows.action),
            self.critic_updates.target(rows.reward, discount, next_value),
            twin_values(self.critic, rows.observation, torch.tanh(mean)),
            rows.action,
            mean,
            log_std,
        )

    # -------------------------------------------------------------------------------------------------------- update
    def noise_for(self, batch: Transition) -> Tensor:
        """`[seeds, 2 + 3 n, B, A]` draws of the members' generators for `n = action_samples`.

        Standard normal ones for the next action in the target and for the policy's own step, then `n` for the policy's
        actions at s, `n` for those at s', and `n` random actions in [-1, 1].
        """
        shape = (2 + 3 * self.action_samples, len(batch.reward) // self.population.minibatches, batch.action.shape[-1])
        noise = self.population.draw(shape, self.device, self.rank)
        random = uniform_actions(noise[:, -self.action_samples :])
        return torch.cat([noise[:, : -self.action_samples], random], 1)

    def learn(self, transition: Transition, noise: Tensor) -> Update:
        """One update of multiplier, critics, temperature, policy and target critics, in this order (d3rlpy).

        Args:
            transition: `[B]` rows shared by all seeds, or `[seeds * B]` with one minibatch per seed, seed-major.
            noise: draws of `noise_for`.
        """
        batch = self._split(transition, self.population.minibatches)
        noise = self.population.for_members(noise)
        # One pass of the policy serves the sampled actions of the critics' loss and the policy's own.
        with collecting(self.actor.network) as auxiliary:
            mean, log_std = self.actor(batch.observation)
        balance, balance_weights = losses_by_member(self.actor.network, auxiliary)
        metrics = self._update_critic(batch, mean.detach(), log_std.detach(), noise)
        # The temperature learns before the policy, which then sees the new one and the new critics.
        action, log_prob = tanh_normal_sample(mean, log_std, noise[:, 1])
        entropy = -log_prob.sum(-1).mean(-1)  # [M]
        temperature = self.temperature.update(entropy - self.entropy_floor)
        value = twin_values(self.critic, batch.observation, action).amin(0).mean(-1)
        terms = {"value": -value, "entropy": -temperature * entropy, **balance}
        loss = weighted_sum(terms, {"value": 1.0, "entropy": 1.0, **balance_weights})
        descend(self.actor_optimizer, loss.sum())
        follow(self.target_critic, self.critic, self.critic_updates.target_rate)
        metrics |= {"entropy": entropy.detach(), "temperature": temperature, "negative_value": -value.detach()}
        return Update(metrics | {f"actor/{name}": x.detach() for name, x in balance.items()})

    def _update_critic(self, batch: Transition, mean: Tensor, log_std: Tensor, noise: Tensor) -> dict[str, Tensor]:
        settings = self.critic_updates
        discount = discount_unless_terminal(self.discount, batch.terminated)
        # Targets and sampled actions: no gradient passes through them.
        with torch.no_grad():
            next_mean, next_log_std = self.actor(batch.next_observation)
            next_action, bonus = self._next_action(next_mean, next_log_std, noise[:, 0])
            next_value = twin_values(self.target_critic, batch.next_observation, next_action).amin(0) + bonus
            target = settings.target(batch.reward, discount, next_value)
            actions, log_density = self._sampled_actions((mean, log_std), (next_mean, next_log_std), noise[:, 2:])
        # One forward pass of both critics over all states and actions at which their loss looks: the residual looks at
        # the next ones, too.
        states = [batch.observation.repeat(1, 1 + actions.shape[1], 1)]
        queried = [batch.action, actions.flatten(1, 2)]
        if settings.residual_weight > 0:
            states.append(batch.next_observation)
            queried.append(next_action)
        with collecting(self.critic) as auxiliary:
            values = twin_values(self.critic, torch.cat(states, 1), torch.cat(queried, 1))
        values = values.unflatten(-1, (-1, batch.reward.shape[-1]))
        balance, balance_weights = losses_by_member(self.critic, auxiliary)
        balance = {name: x.view(CRITICS, -1) for name, x in balance.items()}
        value, sampled = values[:, :, 0], values[:, :, 1 : 1 + actions.shape[1]]
        ahead = values[:, :, -1] + bonus if settings.residual_weight > 0 else None
        error = settings.errors(value, ahead, target, batch.reward, discount).mean(-1)
        # The multiplier learns before the critics, which then see the new one.
        gap = conservative_gap(sampled, log_density, value).mean(-1)  # [2, M]
        penalty, multiplier = self.weight * gap, torch.ones_like(self.weight)
        if self.constraint.threshold is not None:
            multiplier = self.multiplier.update(self.weight * self.constraint.threshold - penalty.detach().mean(0))
        terms = {"error": error, "penalty": multiplier * penalty, **balance}
        loss = weighted_sum(terms, {"error": 1.0, "penalty": 1.0, **balance_weights})
        descend(self.critic_optimizer, loss.sum())
        settings.project(self.critic)
        return {
            "bellman_error": error.detach().mean(0),
            "gap": gap.detach().mean(0),
            "multiplier": multiplier,
            "value": value.detach().mean((0, 2)),
            "target": target.mean(-1),
            **{f"critic/{name}": x.detach().mean(0) for name, x in balance.items()},
        }

    def _next_action(self, mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """`[M, B, A]` next actions in the targets, and the `[M, B]` entropy that is added to their values."""
        if self.backup == "likeliest":
            return torch.tanh(mean), torch.zeros_like(mean[..., 0])
        action, log_prob = tanh_normal_sample(mean, log_std, noise)
        if self.backup == "sampled":
            return action, torch.zeros_like(mean[..., 0])
        return action, entropy_bonus(log_prob.sum(-1), self.temperature.log_value.exp())

    def _sampled_actions(
        self, now: tuple[Tensor, Tensor], ahead: tuple[Tensor, Tensor], noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`[M, 3 n, B, A]` actions of the policy at s, of the policy at s', and random ones, with log-densities.

        Args:
            now: `[M, B, A]` mean and log deviation at s.
            ahead: the same at s'; the actions are valued at s all the same.
            noise: `[M, 3 n, B, A]` of `noise_for`, the random actions last.
        """
        first, second, random = noise.chunk(3, dim=1)
        pairs = [(now, first), (ahead, second)]
        drawn = [tanh_normal_sample(m.unsqueeze(1), s.unsqueeze(1), eps) for (m, s), eps in pairs]
        uniform = torch.full_like(random[..., 0], self.uniform_log_density)
        actions = torch.cat([*(action for action, _ in drawn), random], 1)
        return actions, torch.cat([*(log_prob.sum(-1) for _, log_prob in drawn), uniform], 1)
