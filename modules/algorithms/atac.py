"""ATAC: a pessimistic critic and a policy play a Stackelberg game on offline data.

Source: Cheng, Xie, Jiang & Agarwal 2022, "Adversarially Trained Actor Critic for Offline Reinforcement Learning"
(https://arxiv.org/abs/2202.02446), algorithm 2. The critic (follower) prefers the data's actions to the policy's as
far as the Bellman error, weighted by `beta`, allows; the policy (leader) ascends that critic slowly. The result is not
worse than the behaviour policy over a wide range of `beta`. The paper has continuous actions; what is done for numbered
ones is derived here: the expectations over the policy, which the paper's `f(s, pi)` stands for, are sums over actions.

One agent holds `M = len(beta) * seeds` members that never interact, stacked along the first axis of every weight. What
a person changes together stands in groups of arguments of their own: `warm_start`, `actor`, `critic`, `entropy`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pytorch_lightning import Trainer
from tensordict import TensorDictBase
from torch import Tensor, nn

from modules.agent.action_kinds import ActionKind, action_kind
from modules.agent.actor_critic_updates import ActorUpdates, CriticUpdates
from modules.agent.adaptive_beta import AdaptiveBeta
from modules.agent.agent import Agent
from modules.agent.compiled import WholeUpdate, whole_update
from modules.agent.descent import descend, make_adam, weighted_sum
from modules.agent.entropy_floor import EntropyFloor, Temperature
from modules.agent.population import Population, one_or_more
from modules.agent.reference_policy import load_reference
from modules.agent.trust_region import TrustRegion
from modules.agent.warm_start import TwoPhases, WarmStart, settling_updates
from modules.arguments.changed import RUNNING, STARTED
from modules.arguments.checks import check_choice, check_kinds, check_ranges, check_widths
from modules.batch import Spaces, Transition
from modules.contracts import MayHoldInitialObservations, Update
from modules.functional.pessimism import dqra_loss, normalized_sum, relative_pessimism
from modules.functional.returns import discount_unless_terminal
from modules.networks.auxiliary_losses import collecting
from modules.networks.ensemble import INITIALIZERS, follow
from modules.networks.perception import MakeEncoder
from modules.networks.trunks import CRITICS, losses_by_member, make_twin_critics
from modules.networks.updates import set_noise

NEEDS_INITIAL = "pessimism: initial needs first observations; set `initial_observations: true` on the data"


class ATAC(TwoPhases, Agent):
    """Adversarially trained actor-critic with relative (ATAC) or initial-state (ATAC0) pessimism.

    Args:
        spaces: observation and action spaces, announced by the datamodule.
        beta: weight of the Bellman error against pessimism; a list trains one member per value.
        seeds: number of members per beta, each with own initial weights, noise and (unless `shared_batch`) minibatches.
        seed: seed of the first member of each beta.
        shared_batch: whether all seeds learn from one minibatch per update instead of one each.
        discount: discount factor gamma per step.
        hidden: widths of the hidden layers of policy and critics.
        trunk: any layer instead of the hidden layers, such as `modules.experts.layer.SparseMoE` or a stack of them:
            called with `(features in, the last of the hidden widths)`, once for the policy and each critic.
        encoder: encoder of images, one for each network, such as `modules.networks.encoders.Encoder`; null is the usual
            one.
        initializer: initial weights, `xavier_normal` with zero bias or `torch_default`; a trunk has its own.
        critic_lr: Adam learning rate of critics and temperature, and of the policy during the warm start.
        actor_lr: Adam learning rate of the policy after the warm start; slow against the critics by design.
        pessimism: `relative` compares the policy's action with the data's; `initial` lowers the policy's value at
            episode starts (ATAC0; the datamodule must then yield `initial_observation`).
        reference_policy: checkpoint whose policy takes the place of the data's actions in the pessimism term, to be
            improved on (Xie et al. 2022, ARMOR, https://arxiv.org/abs/2211.04538); null is the data.
        adaptive_beta: the Bellman error that is allowed, if beta is to follow it from where it starts; experimental.
        warm_start: number of updates of cloning without pessimism before the game, and whether the critics learn in it.
        actor: settings of how the policy follows the critics.
        critic: settings of how the critics learn.
        entropy: floor under the policy's entropy.
        trust: how far the policy may leave what it cloned.
        compile: whether the whole update is compiled into one graph, half a minute per phase at its start; `auto`: in
            a run of 20,000 updates or more, of one process with a compiler; or `captured`, replayed as CUDA graphs.

    Raises:
        ValueError: spaces other than a flat Box or images, and a bounded flat Box or a Discrete space of actions,
            a choice that numbered actions do not have, an encoder where there are no images, or an argument outside its
            range.
    """

    batch_type = Transition
    takes_images = True
    kind: ActionKind
    fixed_on_resume: ClassVar[dict[str, str]] = {"seed": RUNNING, "initializer": STARTED}
    beta: Tensor
    critic_pessimism: Tensor
    reference: Sequence[nn.Module] = ()

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
        encoder: MakeEncoder | None = None,
        initializer: Literal["xavier_normal", "torch_default"] = "xavier_normal",
        critic_lr: float = 5e-4,
        actor_lr: float = 5e-7,
        pessimism: Literal["relative", "initial"] = "relative",
        reference_policy: str | None = None,
        adaptive_beta: AdaptiveBeta = AdaptiveBeta(),
        warm_start: WarmStart = WarmStart(),
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
        check_choice("pessimism", pessimism, ("relative", "initial"))
        check_kinds(
            adaptive_beta=(adaptive_beta, AdaptiveBeta), warm_start=(warm_start, WarmStart), trust=(trust, TrustRegion),
            actor=(actor, ActorUpdates), critic=(critic, CriticUpdates), entropy=(entropy, EntropyFloor),
        )  # fmt: skip
        adaptive_beta.check(betas, warm_start.updates, warm_start.critic)
        # One group of members per beta; everything random in a member comes from its own seed.
        self.population = Population("beta", betas, seeds, seed, shared_batch)
        # Arguments and groups of them, as they are given.
        self.discount = discount
        self.hidden = list(hidden)
        self.trunk = trunk
        self.make_encoder = encoder
        self.initializer = INITIALIZERS[initializer]
        self.critic_lr = critic_lr
        self.actor_lr = actor_lr
        self.pessimism = pessimism
        self.reference_policy: str | None = reference_policy
        self.adaptive_beta = adaptive_beta
        self.warm_start = warm_start
        self.actor_updates = actor
        self.critic_updates = critic
        self.entropy = entropy
        self.trust = trust
        self.compile_mode = whole_update(compile)
        self._plan_phases(settling_updates(critic.target_rate, discount))
        self.build_for(spaces)

    def build(self, spaces: Spaces) -> None:
        d_observation, _ = self._observe(spaces, discrete=True)
        self.kind = action_kind(self.units)
        self.kind.check_cloning(self.warm_start.loss, self.warm_start.saturation, "warm_start.")
        self.register_buffer("beta", self.population.per_member(), persistent=False)
        # Initial weights of the policy and of each critic come from a stream of their own per member.
        members = len(self.population)
        streams = [self.population.generators(stream) for stream in range(1 + CRITICS)]
        self.actor = self.kind.make_policy(
            members, d_observation, self.hidden, self.actor_updates.log_std_range,
            self.initializer, streams[0], self.trunk,
        )  # fmt: skip
        set_noise(self.actor, False)  # its log-probabilities are the same in an update as where it acts
        self._keep_copies()
        d_in, d_out = self.kind.critic_widths(d_observation)
        self.critic, self.target_critic = make_twin_critics(
            members, d_in, self.hidden, d_out,
            self.initializer, streams[1:], self.trunk, self.critic_updates.layer_norm,
        )  # fmt: skip
        # The temperature, and what the update reads of the critics' roles.
        self.temperature = Temperature(self.entropy, members, self.kind, self.critic_lr)
        self.log_temperature = self.temperature.log_temperature
        self.register_buffer("critic_pessimism", self.critic_updates.pessimism_share(), persistent=False)
        self.bellman_bound = self.adaptive_beta.make_bound(self.beta.tolist(), self.critic_pessimism[..., 0])
        self.actor_optimizer = make_adam(self.actor.parameters(), self.critic_lr)
        self.critic_optimizer = make_adam(self.critic.parameters(), self.critic_lr)
        self.temperature_optimizer = self.temperature.optimizer
        if not self.warm_starting:
            self._start_game()

    def check_run(self, trainer: Trainer, data: object) -> None:
        super().check_run(trainer, data)
        lacking = isinstance(data, MayHoldInitialObservations) and not data.initial_observations
        if self.pessimism == "initial" and lacking:
            raise ValueError(NEEDS_INITIAL)
        if self.reference_policy is not None:
            # In a list: it is frozen input, not a part of this agent's weights and checkpoints.
            self.reference = [load_reference(self.reference_policy, self.spaces, self.device)]

    @torch.no_grad()
    def evaluate_losses(self, batch: TensorDictBase | Transition) -> dict[str, Tensor]:
        """Held-out `[M]` fit of policy and critics, at the policy's most likely action; batches are shared."""
        return self._held_out_errors(self._split(self.read(batch), 1))

    # -------------------------------------------------------------------------------------------------------- update
    def noise_for(self, batch: Transition) -> Tensor:
        """`[3, seeds, B, A]` standard normal draws for the actions at s, s' and s0, of the members' generators.

        Of numbered actions none is drawn: `A` is 0.
        """
        shape = (3, len(batch.reward) // self.population.minibatches, self.kind.d_noise)
        return self.population.draw(shape, self.device, self.rank).transpose(0, 1)

    def update(self, batch: Any, noise: Any = None) -> Update:
        """As every agent's; between the policy's updates of the game, its metrics are those of the last one."""
        return self._with_turn_metrics(super().update(batch, noise))

    def learn(self, transition: Transition, noise: Tensor) -> Update:
        """One update of critics, temperature and policy, in this order (official code, one step).

        Args:
            transition: `[B]` rows shared by all seeds, or `[seeds * B]` with one minibatch per seed, seed-major.
            noise: draws of `noise_for`.
        """
        batch = self._split(transition, self.population.minibatches)
        noise = noise.repeat(1, len(self.population) // noise.shape[1], 1, 1)
        # One pass of the policy serves the critics' pessimism, the temperature and the policy's own loss.
        with collecting(self.actor.network) as auxiliary:
            statistics = self.actor(batch.observation)
        balance, balance_weights = losses_by_member(self.actor.network, auxiliary)
        action, log_prob = self.kind.play(noise[0], *statistics)
        entropy = -self.temperature.reduce(log_prob).mean(-1)  # [M]
        metrics = {"entropy": entropy.detach()}
        # The follower learns first: the leader then ascends the critic that has just answered it.
        if not self.warm_starting or self.warm_start.critic:
            metrics |= self._update_critic(batch, action.detach(), noise)
        if self.actor_turn:
            temperature = self.temperature.update(entropy.detach())
            name, objective = self._objective(batch, statistics, action)
            penalty, distance = self._pull_back(batch.observation, statistics)
            game = normalized_sum(objective + penalty, -entropy, temperature)
            loss = weighted_sum({"game": game, **balance}, {"game": 1.0, **balance_weights})
            descend(self.actor_optimizer, loss.sum())
            self._average()
            metrics |= {name: objective.detach(), "temperature": temperature, **distance}
        return Update(metrics | {f"actor/{name}": x.detach() for name, x in balance.items()})

    def _update_critic(self, batch: Transition, action: Tensor, noise: Tensor) -> dict[str, Tensor]:
        settings = self.critic_updates
        discount = discount_unless_terminal(self.discount, batch.terminated)
        # Targets: no gradient passes through them.
        with torch.no_grad():
            next_action, _ = self.kind.play(noise[1], *self.actor(batch.next_observation))
            next_value = self.kind.least_value(self.target_critic, batch.next_observation, next_action)
            target = settings.target(batch.reward, discount, next_value)
        # One forward pass of both critics over all states and actions at which their loss looks.
        queries = [(batch.observation, self.kind.as_played(batch.action)), (batch.next_observation, next_action)]
        if not self.warm_starting:
            queries += self._pessimism_queries(batch, action, noise)
        with collecting(self.critic) as auxiliary:
            value, next_value, *pessimism_values = self.kind.values(self.critic, queries)
        balance, balance_weights = losses_by_member(self.critic, auxiliary)
        balance = {name: x.view(CRITICS, -1) for name, x in balance.items()}
        # Beta weighs the Bellman error against pessimism; in the warm start there is none.
        bellman = dqra_loss(
            value, next_value, target, batch.reward, discount,
            settings.residual_weight * self.critic_pessimism, settings.clip_backup,
        ).mean(-1)  # fmt: skip
        if self.warm_starting:
            pessimism = torch.zeros_like(bellman)
        elif self.pessimism == "initial":
            pessimism = pessimism_values[0].mean(-1)
        else:
            reference_value = pessimism_values[1] if self.reference else value
            pessimism = relative_pessimism(pessimism_values[0], reference_value).mean(-1)
        beta, adapted = self.beta, {}  # type: tuple[Tensor, dict[str, Tensor]]
        if self.bellman_bound is not None:
            beta, adapted = self.bellman_bound.weigh(bellman.detach(), self.warm_starting)
        game = normalized_sum(self.critic_pessimism[..., 0] * pessimism, bellman, beta)  # [2, M]
        loss = weighted_sum({"game": game, **balance}, {"game": 1.0, **balance_weights})
        descend(self.critic_optimizer, loss.sum())
        # Back into the ball that bounds the critics, then the targets follow.
        settings.project(self.critic)
        follow(self.target_critic, self.critic, settings.target_rate)
        return {
            "bellman_error": bellman.detach().mean(0),
            "pessimism": pessimism.detach().mean(0),
            "value": value.detach().mean((0, 2)),
            "target": target.mean(-1),
            **adapted,
            **{f"critic/{name}": x.detach().mean(0) for name, x in balance.items()},
        }

    def _pessimism_queries(self, batch: Transition, action: Tensor, noise: Tensor) -> list[tuple[Tensor, Tensor]]:
        """States and actions at which the pessimism term evaluates the critics, the policy's own first."""
        if self.pessimism == "initial":
            if batch.initial_observation is None:
                raise ValueError(NEEDS_INITIAL)
            with torch.no_grad():
                initial_action, _ = self.kind.play(noise[2], *self.actor(batch.initial_observation))
            return [(batch.initial_observation, initial_action)]
        if not self.reference:
            return [(batch.observation, action)]
        reference = self.kind.as_played(self._reference_actions(self.reference[0], batch.observation))
        return [(batch.observation, action), (batch.observation, reference)]

    # --------------------------------------------------------------------------------------- phases and checkpoints
    def refuse_arguments(self, saved: Mapping[str, Any]) -> None:
        super().refuse_arguments(saved)
        self.adaptive_beta.refuse_other_start(saved["beta"], self.hparams["beta"])

    def advance(self) -> None:
        super().advance()
        self._next_phase()
