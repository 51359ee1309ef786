"""DreamerV2: learns a world model from replayed sequences, and how to act from what the model imagines.

Source: Hafner et al. 2021, "Mastering Atari with Discrete World Models" (https://arxiv.org/abs/2010.02193); constants,
order of the steps and everything that the paper leaves open are those of the authors' code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import gymnasium as gym
import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from modules.agent.descent import descend_clipped, weighted_sum
from modules.agent.laprop import LaProp
from modules.arguments.checks import check_choice, check_ranges
from modules.arguments.tunable import Change
from modules.batch import PLAIN, SequenceBatch, Spaces, by_key
from modules.contracts import Update
from modules.functional.divergences import balanced_kl
from modules.functional.returns import discount_unless_terminal
from modules.networks.action_spaces import action_width
from modules.networks.auxiliary_losses import collecting
from modules.world_model.actor_critic import CLIP_NORM, DECAY, ActorCritic
from modules.world_model.disagreement_penalty import DisagreementPenalty
from modules.world_model.imagined import ImaginationNoise
from modules.world_model.plan2explore import Plan2Explore
from modules.world_model.rssm import Observed, RecurrentModel, State
from modules.world_model.shared_optimizer import SharedOptimizer
from modules.world_model.world_model import WorldModel

MakeExploration = Callable[[gym.Space, RecurrentModel, int, Callable[[gym.Space, int], ActorCritic]], Plan2Explore]
REWARD_TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {"identity": lambda reward: reward, "tanh": torch.tanh}


class Noise(NamedTuple):
    """All randomness of one update.

    Attributes:
        posterior: `[T, B, ...]` of the latents of the window.
        task: draws for the imagination of the task's behaviour.
        exploration: draws for that of the exploring one, or None.
    """

    posterior: Tensor
    task: ImaginationNoise
    exploration: ImaginationNoise | None


class Memory(NamedTuple):
    """State that the agent carries from one step to the next, `[B, ...]`.

    Attributes:
        state: state of the model.
        action: `[B, A]` last action as the model sees it.
    """

    state: State
    action: Tensor


class DreamerV2(SharedOptimizer):
    """World model, actor and critic, one update of each per batch of sequences.

    Args:
        spaces: announced by the datamodule.
        world_model: makes the model, called with the spaces and the width of an action.
        behaviour: makes actor and critic, called with the action space and the width of the features.
        exploration: makes a second behaviour that collects until it has learnt enough, called with the action space,
            the recurrent model, the width of an action and the maker of its own actor and critic; None for none.
        pessimism: makes what rewards are less by where the model has seen little, for recorded data alone, called with
            the recurrent model and the width of an action; None for none.
        discount: discount factor gamma per step.
        model_lr: Adam learning rate of the world model; None where `optimizer` trains it.
        model_clip_norm: Euclidean norm that the world model's gradient is scaled down to; a small one keeps a small
            model from leaping at rare batches.
        kl_alpha: share of the Kullback-Leibler loss that trains the prior; the rest trains the posterior. A
            `KLBalancing` callback takes the place of this and the next three.
        kl_scale: weight of that loss.
        free_nats: each of its two terms counts as at least this much, and does not train below.
        free_per_step: apply `free_nats` to each step instead of to the mean (third version).
        reward_loss_scale: weight of the reward loss.
        discount_loss_scale: weight of the discount loss.
        reconstruction_loss_scale: weight of the losses of observations.
        replay_value_loss_scale: weight of the critic's loss on what was played, which trains the model, too; needs
            `optimizer` and `value_of: future` (third version).
        reward_transform: transform of the environment's rewards, which the model then learns.
        gradient_heads: heads that train the whole model; the others train themselves alone.
        optimizer: makes one optimiser of model, actor and critic, called with their parameters, which steps once on all
            losses (third version); their learning rates are None then. None for three Adams, one after another.
        compile: `cell` compiles the recurrent steps, which pays on CPUs; `captured` also replays the update as one CUDA
            graph; `update` compiles the whole update.

    Raises:
        ValueError: the spaces are not of a kind that it can learn from, a number is out of range, or one is ignored.
    """

    events = frozenset({"on_kl", "on_targets"})
    batch_type = SequenceBatch
    tunable: ClassVar[dict[str, Change]] = {
        **dict.fromkeys(("model_lr", "kl_scale", "reward_loss_scale", "reconstruction_loss_scale"), "scale"),
        **dict.fromkeys((f"behaviour.init_args.{name}" for name in ("actor_lr", "critic_lr", "entropy")), "scale"),
        **dict.fromkeys(("discount", "behaviour.init_args.lambda_"), "horizon"),
    }
    held_out_loss = "reward_loss"

    def __init__(
        self,
        spaces: Spaces | None = None,
        world_model: Callable[[Spaces, int], WorldModel] = WorldModel,
        behaviour: Callable[[gym.Space, int], ActorCritic] = ActorCritic,
        exploration: MakeExploration | None = None,
        pessimism: Callable[[RecurrentModel, int], DisagreementPenalty] | None = None,
        discount: float = 0.99,
        model_lr: float | None = 1e-4,
        model_clip_norm: float = CLIP_NORM,
        kl_alpha: float = 0.8,
        kl_scale: float = 1.0,
        free_nats: float = 0.0,
        free_per_step: bool = False,
        reward_loss_scale: float = 1.0,
        discount_loss_scale: float = 1.0,
        reconstruction_loss_scale: float = 1.0,
        replay_value_loss_scale: float = 0.0,
        reward_transform: Literal["identity", "tanh"] = "identity",
        gradient_heads: list[Literal["decoder", "reward", "discount"]] = ["decoder", "reward", "discount"],  # noqa: B006
        optimizer: Callable[[list[nn.Parameter]], LaProp] | None = None,
        compile: Literal["off", "cell", "update", "captured"] = "off",
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["spaces"])
        check_ranges(
            ("discount", discount, 0.0, 1.0),
            ("model_lr", model_lr or 0.0, 0.0, 1e3),
            ("model_clip_norm", model_clip_norm, 1e-12, 1e12),
            ("kl_alpha", kl_alpha, 0.0, 1.0),
            *((name, scale, 0.0, 1e12) for name, scale in (("kl_scale", kl_scale), ("free_nats", free_nats))),
            ("reward_loss_scale", reward_loss_scale, 0.0, 1e12),
            ("discount_loss_scale", discount_loss_scale, 0.0, 1e12),
            ("reconstruction_loss_scale", reconstruction_loss_scale, 0.0, 1e12),
            ("replay_value_loss_scale", replay_value_loss_scale, 0.0, 1e12),
        )
        if free_per_step and not free_nats:
            raise ValueError("free_per_step would be ignored, as free_nats is 0: raise it, or leave free_per_step out")
        check_choice("reward_transform", reward_transform, REWARD_TRANSFORMS)
        check_choice("compile", compile, ("off", "cell", "update", "captured"))
        for head in gradient_heads:
            check_choice("gradient_heads", head, ("decoder", "reward", "discount"))
        # What makes the parts waits for `build`, when the spaces are known.
        self.make_world_model = world_model
        self.make_behaviour = behaviour
        self.make_exploration = exploration
        self.make_pessimism = pessimism
        self.make_optimizer = optimizer
        self.gamma = discount
        self.model_lr = model_lr
        self.model_clip_norm = model_clip_norm
        self.kl = {"alpha": kl_alpha, "free_nats": free_nats, "per_step": free_per_step}
        self.kl_scale = kl_scale
        self.scales = {"reward": reward_loss_scale, "discount": discount_loss_scale}
        self.reconstruction_scale = reconstruction_loss_scale
        self.replay_value_scale = replay_value_loss_scale
        self.reward_transform = REWARD_TRANSFORMS[reward_transform]
        self.gradient_heads = frozenset(gradient_heads)
        self.compile_mode = compile
        self.build_for(spaces)

    def build(self, spaces: Spaces) -> None:
        self.d_action = action_width(spaces.action)
        self.world_model = self.make_world_model(spaces, self.d_action)
        rssm = self.world_model.rssm
        self.behaviour = self.make_behaviour(spaces.action, rssm.width)
        explorer = self.make_exploration
        self.exploration = explorer(spaces.action, rssm, self.d_action, self.make_behaviour) if explorer else None
        self.pessimism = self.make_pessimism(rssm, self.d_action) if self.make_pessimism else None
        self._make_optimizers()

    def compile_parts(self) -> None:
        self.world_model.rssm.compile_steps()

    # -------------------------------------------------------------------------------------------------------- acting
    @property
    def phase(self) -> str:
        return "exploration" if self.exploring else "training"

    @property
    def exploring(self) -> bool:
        """Whether the exploring behaviour collects, not the task's."""
        return self.exploration is not None and self.updates < self.exploration.until

    def initial_state(self, batch: int) -> Memory:
        return Memory(self.world_model.rssm.initial(batch), torch.zeros(batch, self.d_action, device=self.device))

    def acting_noise(self, batch: int) -> Tensor:
        return self.world_model.rssm.latent.noise(batch, device=self.device)

    @torch.no_grad()
    def act(
        self,
        observation: Tensor | dict[str, Tensor],
        state: Any = None,
        *,
        explore: bool,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, Memory]:
        """Actions for `[B, ...]` observations; the latent is sampled also without `explore`, as in the paper's code.

        Its `noise` is drawn if not given, see `acting_noise`.
        """
        seen = {key: x.unsqueeze(0) for key, x in by_key(observation).items()}
        rows = next(iter(seen.values())).shape[1]
        memory: Memory = self.initial_state(rows) if state is None else state
        no_reset = torch.zeros(1, rows, dtype=torch.bool, device=self.device)  # whoever resets gives an initial state
        drawn = (self.acting_noise(rows) if noise is None else noise).unsqueeze(0)
        observed = self.world_model.observe(seen, memory.action.unsqueeze(0), no_reset, drawn, memory.state)
        now = State(observed.state.h[0], observed.state.z[0])
        actor = self.exploration.behaviour.actor if explore and self.exploring else self.behaviour.actor  # type: ignore[union-attr]
        policy = actor(now.features)
        action = actor.sample(policy, actor.noise(rows, device=self.device)) if explore else actor.mode(policy)
        return actor.decode(action), Memory(now, actor.executed(action))

    def acted(self, state: Memory, action: Tensor) -> Memory:
        return state._replace(action=self.behaviour.actor.encode(action))

    # -------------------------------------------------------------------------------------------------------- update
    def noise_for(self, batch: SequenceBatch) -> Noise:
        return self.draw_noise(*batch.reward.shape)

    def draw_noise(self, steps: int, rows: int) -> Noise:
        """All randomness of an update on `[T, B]` windows."""
        rssm, starts = self.world_model.rssm, steps * rows
        posterior = rssm.latent.noise(steps, rows, device=self.device)
        task, *exploring = (behaviour.noise(rssm, starts, self.device) for behaviour in self._behaviours)
        return Noise(posterior, task, exploring[0] if exploring else None)

    def learn(self, batch: SequenceBatch, noise: Noise) -> Update:
        """One step of the world model, then of actor and critic on what it imagines from every step of the batch.

        With `optimizer` it is one step of all three, on losses of the same weights.
        """
        rssm, action = self.world_model.rssm, self.behaviour.actor.encode(batch.previous_action)
        terms, weights, metrics, observed = self._model_losses(batch, action, noise.posterior)
        metrics |= {f"{name}_loss": term.detach() for name, term in terms.items()}
        loss = weighted_sum(terms, weights)
        # Every step of the window is a start of imagination, without a gradient; nothing follows a terminal one.
        known = Observed(State(*(x.detach() for x in observed.state)), *(x.detach() for x in observed[1:]))
        start = State(*(x.flatten(0, 1) for x in known.state))
        ahead = discount_unless_terminal(self.gamma, batch.terminated).flatten()
        reward = self._reward if self.pessimism is None else self.pessimism.penalised(self._reward)
        imagined = ahead, reward, self._discount
        if self.pessimism is not None:
            fitted = self.pessimism.fit(known, action, batch.is_first)
            metrics |= {f"pessimism/{name}": value for name, value in fitted.items()}
        if self.optimizer is not None:
            found = self.behaviour.losses(rssm, start, *imagined, noise.task, self.announce)
            metrics |= found.metrics | self._descend_together(self.optimizer, loss, batch, observed, found)
            rssm.latent.adapt(known.posterior)
            return Update(metrics)
        # The world model moves first, and imagines with its new weights.
        assert self.model_optimizer is not None
        metrics["model_norm"] = descend_clipped(self.model_optimizer, loss, self.model_clip_norm, DECAY)
        rssm.latent.adapt(known.posterior)
        metrics |= self.behaviour.learn(rssm, start, *imagined, noise.task, self.announce)
        if self.exploration is not None:
            assert noise.exploration is not None
            explored = self.exploration.learn(
                rssm,
                known,
                action,
                batch.is_first,
                ahead,
                self._reward,
                self._discount,
                noise.exploration,
                self.announce,
            )
            metrics |= {f"exploration/{name}": value for name, value in explored.items()}
        return Update(metrics)

    def _model_losses(
        self, batch: SequenceBatch, action: Tensor, noise: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, float], dict[str, Tensor], Observed]:
        """Terms of the world model's loss, their weights, further metrics, and the inferred states."""
        model, latent = self.world_model, self.world_model.rssm.latent
        with collecting(model) as auxiliary:
            observed = model.observe(batch.observation, action, batch.is_first, noise)
            features = observed.state.features
            views = {name: features if name in self.gradient_heads else features.detach() for name in self._heads}
            errors = model.reconstruction_losses(views["decoder"], batch.observation)
            terms = {key if key == PLAIN else f"{PLAIN}/{key}": error for key, error in errors.items()}
            terms["reward"] = model.reward.loss(model.reward(views["reward"]), self.reward_transform(batch.reward))
            if model.discount is not None:
                ahead = discount_unless_terminal(self.gamma, batch.terminated)
                terms["discount"] = model.discount.loss(model.discount(views["discount"]), ahead)
        weights = {name: self.scales.get(name, self.reconstruction_scale) for name in terms}
        terms = {name: term.mean() for name, term in terms.items()}

        # The divergence, as a callback mixes its two terms, or by the arguments.
        dynamic, representation = latent.kl(observed.posterior, observed.prior)
        answer = self.announce("on_kl", dynamic, representation)
        kl = self.kl_scale * balanced_kl(dynamic, representation, **self.kl) if answer is None else answer[0]  # type: ignore[arg-type]
        metrics = {} if answer is None else answer[1]
        metrics["kl"] = dynamic.detach().mean()
        metrics["posterior_entropy"] = latent.posterior_entropy(observed.posterior.detach()).mean()
        metrics["prior_entropy"] = latent.prior_entropy(observed.prior.detach()).mean()
        codes, code_weights = latent.auxiliary_losses(observed.posterior)
        terms |= {"kl": kl, **{name: term.mean() for name, term in codes.items()}, **auxiliary.losses}
        return terms, {**weights, "kl": 1.0, **code_weights, **auxiliary.weights}, metrics, observed

    @property
    def _heads(self) -> tuple[str, ...]:
        return ("decoder", "reward") if self.world_model.discount is None else ("decoder", "reward", "discount")

    def advance(self) -> None:
        self.world_model.rssm.latent.advance(self.updates + 1)
        for behaviour in self._behaviours:
            behaviour.advance(self.updates)
        super().advance()

    @property
    def _behaviours(self) -> list[ActorCritic]:
        return [self.behaviour, *([] if self.exploration is None else [self.exploration.behaviour])]

    # ---------------------------------------------------------------------------------------------------- evaluation
    @torch.no_grad()
    def evaluate_losses(self, batch: TensorDictBase | SequenceBatch) -> dict[str, Tensor]:
        """The world model's losses on `[B, T]` windows, without any update."""
        sequence: SequenceBatch = self.read(batch)
        noise = self.world_model.rssm.latent.noise(*sequence.reward.shape, device=self.device)
        action = self.behaviour.actor.encode(sequence.previous_action)
        terms, _, metrics, _ = self._model_losses(sequence, action, noise)
        return {f"{name}_loss": term for name, term in terms.items()} | metrics

    # --------------------------------------------------------------------------------------------------- checkpoints
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.world_model.rssm.latent.advance(self.updates)
        for behaviour in self._behaviours:
            behaviour.set_schedules(self.updates)
