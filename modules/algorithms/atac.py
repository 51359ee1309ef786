"""ATAC: a pessimistic critic and a policy play a Stackelberg game on offline data.

Source: Cheng, Xie, Jiang & Agarwal 2022, "Adversarially Trained Actor Critic for Offline Reinforcement Learning"
(https://arxiv.org/abs/2202.02446), algorithm 2. The critic (follower) prefers the data's actions to the policy's as
far as the Bellman error, weighted by `beta`, allows; the policy (leader) ascends that critic slowly. The result is not
worse than the behaviour policy over a wide range of `beta`.

One agent holds `M = len(beta) * seeds` members that never interact, stacked along the first axis of every weight.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from modules.agent.agent import Agent
from modules.agent.descent import descend, make_adam, reset_adam, set_learning_rate, weighted_sum
from modules.agent.entropy_floor import EntropyFloor
from modules.agent.policy_population import PolicyPopulation
from modules.agent.population import Population
from modules.agent.warm_start import WarmStart, check_game
from modules.arguments.changed import RUNNING, STARTED
from modules.batch import PLAIN, Spaces, Transition
from modules.experts.layer import collect_auxiliary_losses, set_routing_noise
from modules.functional.distributions import tanh_normal_log_prob, tanh_normal_sample
from modules.functional.held_out import actor_critic_errors
from modules.functional.pessimism import bellman_backup, dqra_loss, normalized_sum, relative_pessimism
from modules.functional.transforms import clip_straight_through, to_unit
from modules.networks.blocks import Normalize
from modules.networks.ensemble import INITIALIZERS, follow, project_weights
from modules.networks.tanh_gaussian import TanhGaussianPolicy
from modules.networks.trunks import CRITICS, make_ensemble, twin_values

NEEDS_INITIAL = "pessimism: initial needs first observations; set `initial_observations: true` on the data"


class ATAC(PolicyPopulation, WarmStart, Agent):
    """Adversarially trained actor-critic with relative (ATAC) or initial-state (ATAC0) pessimism.

    Args:
        spaces: observation and action spaces, announced by the datamodule.
        beta: weight of the Bellman error against pessimism; a list trains one member per value.
        seeds: members per beta, each with own initial weights, noise and (unless `shared_batch`) minibatches.
        seed: seed of the first of them.
        shared_batch: all seeds learn from one minibatch per update instead of one each.
        discount: discount factor gamma per step.
        hidden: widths of the hidden layers of policy and critics.
        trunk: any layer instead of the hidden layers, such as `modules.experts.layer.SparseMoE` or a stack of them:
            called with `(features in, the last of the hidden widths)`, once for the policy and each critic.
        critic_lr: Adam learning rate of critics and temperature, and of the policy during the warm start.
        actor_lr: Adam learning rate of the policy after the warm start; slow against the critics by design.
        warm_start_updates: updates of behaviour cloning plus Bellman error without pessimism, before the game.
        warm_start_critic: train the critics during the warm start too.
        residual_weight: share of the Bellman residual in the DQRA loss; the rest is temporal-difference error.
        pessimism: `relative` compares the policy's action with the data's; `initial` lowers the policy's value at
            episode starts (ATAC0; the datamodule must then yield `initial_observation`).
        critic_roles: `twin` treats both critics alike; `split` trains the first by temporal differences alone and
            the second, which the actor then follows, with pessimism and DQRA.
        actor_critic: index of the one critic that the policy ascends.
        actor_interval: critic updates per policy update.
        average_rate: act with a moving average of the policy's weights, of which this share is renewed at each update
            (the paper's algorithm 1 returns the average of all iterates); null acts with the policy itself.
        target_rate: share of the online critics that moves into the target critics at each update.
        projection_radius: Frobenius radius of each critic weight matrix; null for no projection.
        target_entropy: entropy floor of the policy in nats; `auto` is minus the action dimension, null turns the
            constraint off.
        entropy_reduction: `sum` over action dimensions as in the paper, or `mean` as lightATAC computes it.
        initial_temperature: weight of the entropy at the start of each phase; it falls by a factor e in about
            `1 / critic_lr` updates, so start lower where the policy learns as fast.
        log_temperature_range: clamp of the learned log temperature; without it the entropy could outgrow the critic.
        value_range: clip of bootstrapped values, straight-through, or null.
        clip: what `value_range` clips: the `bootstrap` value in the target, or the whole `backup` in target and
            residual.
        log_std_range: clamp of the policy's log standard deviation.
        initializer: initial weights, `xavier_normal` with zero bias or `torch_default`; a trunk has its own.
        reference_policy: checkpoint whose policy takes the place of the data's actions in the pessimism term, to be
            improved on (Xie et al. 2022, ARMOR, https://arxiv.org/abs/2211.04538); null is the data.
        compile: compile the whole update into one graph, half a minute per phase at the start; for long runs.

    Raises:
        ValueError: spaces other than a flat Box of observations and a bounded flat Box of actions, or an argument
            outside its range.
    """

    fixed_on_resume: ClassVar[dict[str, str]] = {"seed": RUNNING, "initializer": STARTED}
    beta: Tensor
    critic_pessimism: Tensor

    def __init__(
        self,
        spaces: Spaces | None = None,
        beta: float | list[float] = 4.0,
        seeds: int = 1,
        seed: int = 0,
        shared_batch: bool = False,
        discount: float = 0.99,
        hidden: list[int] = [256, 256, 256],  # noqa: B006 - read only; a list is what YAML gives
        trunk: Callable[[int, int], nn.Module] | None = None,
        critic_lr: float = 5e-4,
        actor_lr: float = 5e-7,
        warm_start_updates: int = 100_000,
        warm_start_critic: bool = True,
        residual_weight: float = 0.5,
        pessimism: Literal["relative", "initial"] = "relative",
        critic_roles: Literal["twin", "split"] = "twin",
        actor_critic: Literal[0, 1] = 0,
        actor_interval: int = 1,
        average_rate: float | None = None,
        target_rate: float = 0.005,
        projection_radius: float | None = 100.0,
        target_entropy: float | Literal["auto"] | None = "auto",
        entropy_reduction: Literal["sum", "mean"] = "sum",
        initial_temperature: float = 1.0,
        log_temperature_range: tuple[float, float] = (-10.0, 10.0),
        value_range: tuple[float, float] | None = None,
        clip: Literal["bootstrap", "backup"] = "bootstrap",
        log_std_range: tuple[float, float] = (math.log(1e-5), 2.0),
        initializer: Literal["xavier_normal", "torch_default"] = "xavier_normal",
        reference_policy: str | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["spaces"])
        betas = [float(b) for b in (beta if isinstance(beta, list | tuple) else [beta])]
        check_game(
            beta=betas, hidden=hidden, log_temperature_range=log_temperature_range, value_range=value_range,
            log_std_range=log_std_range, actor_interval=actor_interval, warm_start_updates=warm_start_updates,
            discount=discount, residual_weight=residual_weight, target_rate=target_rate, average_rate=average_rate,
            critic_lr=critic_lr, actor_lr=actor_lr, initial_temperature=initial_temperature,
            projection_radius=projection_radius, target_entropy=target_entropy,
        )  # fmt: skip
        self.population = Population("beta", betas, seeds, seed)
        self.minibatches = 1 if shared_batch else seeds
        self.discount, self.hidden, self.trunk = discount, list(hidden), trunk
        self.critic_lr, self.actor_lr, self.average_rate = critic_lr, actor_lr, average_rate
        self.warm_start_updates, self.warm_start_critic = warm_start_updates, warm_start_critic
        self.pessimism, self.critic_roles, self.actor_critic = pessimism, critic_roles, actor_critic
        self.residual_weight, self.actor_interval, self.target_rate = residual_weight, actor_interval, target_rate
        self.entropy_settings = (target_entropy, entropy_reduction, initial_temperature, log_temperature_range)
        self.value_range, self.clip, self.log_std_range = value_range, clip, log_std_range
        self.projection_radius, self.initializer = projection_radius, INITIALIZERS[initializer]
        self.reference_policy: str | None = reference_policy
        self.reference: list[nn.Module] = []
        self.alive = [True] * len(self.population)
        self._enter_phase()
        self._step = torch.compile(self._update, fullgraph=True) if compile else self._update
        if spaces is not None:
            self.build(spaces)

    def build(self, spaces: Spaces) -> None:
        observations, actions = spaces.flat_boxes()
        d_observation, d_action = observations.shape[0], actions.shape[0]
        self.spaces = spaces
        self.normalize = Normalize(d_observation, *spaces.statistics_by_key().get(PLAIN, ()))
        self.register_buffer("action_low", torch.as_tensor(actions.low).float())
        self.register_buffer("action_high", torch.as_tensor(actions.high).float())
        self.register_buffer("beta", self.population.per_member(), persistent=False)

        members = len(self.population)
        streams = [self.population.generators(stream) for stream in range(1 + CRITICS)]
        actor = TanhGaussianPolicy(
            members, d_observation, d_action, self.hidden, self.log_std_range, self.initializer, streams[0], self.trunk
        )
        set_routing_noise(actor, False)  # its log-probabilities are the same in an update as where it acts
        self.actor = actor
        self.average_actor = None if self.average_rate is None else copy.deepcopy(self.actor).requires_grad_(False)
        # Critic c of member m is row `c * M + m`, so that one critic of all members is one slice.
        self.critic = make_ensemble(
            CRITICS * members, d_observation + d_action, self.hidden, 1,
            self.initializer, [*streams[1], *streams[2]], self.trunk,
        )  # fmt: skip
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.entropy_floor = EntropyFloor(members, d_action, *self.entropy_settings, self.critic_lr)
        self.log_temperature = self.entropy_floor.log_temperature
        split = torch.tensor([0.0, 1.0] if self.critic_roles == "split" else [1.0, 1.0]).view(CRITICS, 1, 1)
        self.register_buffer("critic_pessimism", split, persistent=False)
        self.actor_optimizer = make_adam(self.actor.parameters(), self.critic_lr)
        self.critic_optimizer = make_adam(self.critic.parameters(), self.critic_lr)
        if not self.warm_starting:
            self._start_game()

    def on_fit_start(self) -> None:
        if self.pessimism == "initial" and getattr(self.trainer.datamodule, "initial_observations", True) is False:  # type: ignore[attr-defined]
            raise ValueError(NEEDS_INITIAL)
        self._warn_of_cloning()
        if self.reference_policy is not None:
            # In a list: it is frozen input, not a part of this agent's weights and checkpoints.
            reference = Agent.from_checkpoint(self.reference_policy).policy()
            self.reference = [reference.requires_grad_(False).to(self.device)]

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        optimizers: list[torch.optim.Optimizer]
        optimizers = [self.actor_optimizer, self.critic_optimizer, self.entropy_floor.optimizer]
        for optimizer in optimizers:
            optimizer.load_state_dict(optimizer.state_dict())  # moves the moments to the parameters' device
        return optimizers

    @torch.no_grad()
    def evaluate_losses(self, batch: TensorDictBase | Transition) -> dict[str, Tensor]:
        """Held-out `[M]` fit of policy and critics, at the policy's most likely action; batches are shared."""
        transition = batch if isinstance(batch, Transition) else Transition.from_tensordict(batch)
        rows = self._split(transition, 1)
        mean, log_std = self.acting(rows.observation)
        next_action = torch.tanh(self.acting(rows.next_observation)[0])
        next_value = twin_values(self.target_critic, rows.next_observation, next_action).amin(0)
        return actor_critic_errors(
            twin_values(self.critic, rows.observation, rows.action),
            bellman_backup(rows.reward, self._discount(rows), next_value),
            twin_values(self.critic, rows.observation, torch.tanh(mean)),
            rows.action,
            mean,
            log_std,
        )

    # -------------------------------------------------------------------------------------------------------- update
    def update(self, batch: TensorDictBase | Transition, noise: Tensor | None = None) -> dict[str, Tensor]:
        """One update of critics, temperature and policy, in this order (official code, one step).

        Args:
            batch: `[B]` transitions shared by all seeds, or `[seeds * B]` with one minibatch per seed, seed-major.
            noise: `[3, seeds, B, A]` standard normal draws for the policy's actions at s, s' and s0; drawn from the
                members' own generators if not given.

        Returns:
            `[M]` metrics.
        """
        transition = batch if isinstance(batch, Transition) else Transition.from_tensordict(batch)
        if noise is None:
            shape = (3, len(transition.reward) // self.minibatches, transition.action.shape[-1])
            noise = self.population.draw(shape, self.device, self.rank).transpose(0, 1)
        return self._step(transition, noise)

    def _update(self, transition: Transition, noise: Tensor) -> dict[str, Tensor]:
        batch = self._split(transition, self.minibatches)
        noise = noise.repeat(1, len(self.population) // noise.shape[1], 1, 1)
        mean, log_std = self.actor(batch.observation)
        balance, balance_weights = self.actor.network.collect_losses()
        action, log_prob = tanh_normal_sample(mean, log_std, noise[0])
        entropy = -self.entropy_floor.reduce(log_prob).mean(-1)  # [M]
        metrics = {"entropy": entropy.detach()}
        if not self.warm_starting or self.warm_start_critic:
            metrics |= self._update_critic(batch, action.detach(), noise)
        if self.actor_turn:
            temperature = self.entropy_floor.update(entropy.detach())
            if self.warm_starting:
                objective = -self.entropy_floor.reduce(tanh_normal_log_prob(batch.action, mean, log_std))
            else:
                objective = -twin_values(self.critic, batch.observation, action, self.actor_critic)[0]
                collect_auxiliary_losses(self.critic)  # of a pass that does not train it
            objective = objective.mean(-1)
            game = normalized_sum(objective, -entropy, temperature)
            loss = weighted_sum({"game": game, **balance}, {"game": 1.0, **balance_weights})
            descend(self.actor_optimizer, loss.sum())
            if self.average_actor is not None and self.average_rate is not None:
                follow(self.average_actor, self.actor, self.average_rate)
            name = "negative_log_likelihood" if self.warm_starting else "negative_value"
            metrics |= {name: objective.detach(), "temperature": temperature}
        return metrics | {f"actor/{name}": x.detach() for name, x in balance.items()}

    def _update_critic(self, batch: Transition, action: Tensor, noise: Tensor) -> dict[str, Tensor]:
        discount = self._discount(batch)
        with torch.no_grad():
            next_action, _ = self._sample(batch.next_observation, noise[1])
            next_value = twin_values(self.target_critic, batch.next_observation, next_action).amin(0)
            if self.clip == "bootstrap":
                next_value = self._clip(next_value)
            target = bellman_backup(batch.reward, discount, next_value)
        queries = [(batch.observation, batch.action), (batch.next_observation, next_action)]
        if not self.warm_starting:
            queries += self._pessimism_queries(batch, action, noise)
        value, next_value, *pessimism_values = twin_values(
            self.critic, torch.cat([s for s, _ in queries], 1), torch.cat([a for _, a in queries], 1)
        ).chunk(len(queries), dim=-1)
        balance, balance_weights = self.critic.collect_losses()
        balance = {name: x.view(CRITICS, -1) for name, x in balance.items()}
        clip = (lambda backup: backup) if self.clip == "bootstrap" else self._clip
        bellman = dqra_loss(
            value, next_value, clip(target), batch.reward, discount,
            self.residual_weight * self.critic_pessimism, clip,
        ).mean(-1)  # fmt: skip
        if self.warm_starting:
            pessimism = torch.zeros_like(bellman)
        elif self.pessimism == "initial":
            pessimism = pessimism_values[0].mean(-1)
        else:
            reference_value = pessimism_values[1] if self.reference else value
            pessimism = relative_pessimism(pessimism_values[0], reference_value).mean(-1)
        game = normalized_sum(self.critic_pessimism[..., 0] * pessimism, bellman, self.beta)  # [2, M]
        loss = weighted_sum({"game": game, **balance}, {"game": 1.0, **balance_weights})
        descend(self.critic_optimizer, loss.sum())
        if self.projection_radius is not None:
            project_weights(self.critic, self.projection_radius)
        follow(self.target_critic, self.critic, self.target_rate)
        return {
            "bellman_error": bellman.detach().mean(0),
            "pessimism": pessimism.detach().mean(0),
            "value": value.detach().mean((0, 2)),
            "target": target.mean(-1),
            **{f"critic/{name}": x.detach().mean(0) for name, x in balance.items()},
        }

    def _pessimism_queries(self, batch: Transition, action: Tensor, noise: Tensor) -> list[tuple[Tensor, Tensor]]:
        """States and actions at which the pessimism term evaluates the critics, the policy's own first."""
        if self.pessimism == "initial":
            if batch.initial_observation is None:
                raise ValueError(NEEDS_INITIAL)
            with torch.no_grad():
                initial_action, _ = self._sample(batch.initial_observation, noise[2])
            return [(batch.initial_observation, initial_action)]
        if not self.reference:
            return [(batch.observation, action)]
        raw = batch.observation * self.normalize.std + self.normalize.mean
        return [
            (batch.observation, action),
            (batch.observation, to_unit(self.reference[0](raw), self.action_low, self.action_high)),
        ]

    # --------------------------------------------------------------------------------------- phases and checkpoints
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self._refuse_past(checkpoint["hyper_parameters"])
        self._enter_phase()
        set_learning_rate(self.actor_optimizer, self.critic_lr if self.warm_starting else self.actor_lr)

    def advance(self) -> None:
        super().advance()
        if self.updates == self.warm_start_updates:
            self._start_game()
        self._enter_phase()

    def _start_game(self) -> None:
        """The policy slows down and forgets its moments; temperature and its moments start afresh (official code)."""
        reset_adam(self.actor_optimizer, self.actor_lr)
        self.entropy_floor.restart()

    def _clip(self, value: Tensor) -> Tensor:
        return value if self.value_range is None else clip_straight_through(value, *self.value_range)

    def _discount(self, batch: Transition) -> Tensor:
        """`[M, B]` discount of the next value: 0 after a terminal state, never at a time-out."""
        return self.discount * (~batch.terminated).float()
