"""Actor and critic that learn from imagined trajectories alone, as in Dreamer.

Source: Hafner et al. 2021, "Mastering Atari with Discrete World Models" (https://arxiv.org/abs/2010.02193), section
2.2, and the authors' code; the options of the third version are from Hafner et al. 2023, "Mastering Diverse Domains
through World Models" (https://arxiv.org/abs/2301.04104).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple, get_args

import gymnasium as gym
import torch
from torch import Tensor, nn

from modules.agent.descent import descend_clipped, make_adam, weighted_sum
from modules.arguments.checks import check_choice, check_ranges, check_widths
from modules.functional.gradient_estimators import reinforce
from modules.functional.pessimism import with_residual
from modules.functional.returns import lambda_returns, replay_returns
from modules.functional.schedules import bounded_schedule, parse_schedule
from modules.networks.actors import DiscreteActor, TruncatedNormalActor
from modules.networks.auxiliary_losses import collecting
from modules.networks.blocks import DenseStack
from modules.networks.ensemble import follow
from modules.networks.make_actor import MakeContinuous, MakeDiscrete, check_makers, make_actor
from modules.networks.replicas import average_over_ranks
from modules.networks.trunks import Trunk
from modules.networks.updates import set_noise
from modules.networks.value_codecs import Normalized
from modules.networks.value_heads import Head
from modules.world_model.imagined import ImaginationNoise, Imagined, ValueOf, course, values
from modules.world_model.rssm import RecurrentModel, State

CLIP_NORM = 100.0
ADAM_EPS = 1e-5
DECAY = 1e-6


class Losses(NamedTuple):
    """Losses of actor and critic from one round of imagination.

    Attributes:
        actor: scalar loss of the actor.
        critic: scalar loss of the critic.
        imagined: the trajectories.
        metrics: scalars without gradients.
    """

    actor: Tensor
    critic: Tensor
    imagined: Imagined
    metrics: dict[str, Tensor]


class ActorCritic(nn.Module):
    """A policy and a value of model states, with their optimisers.

    Args:
        space: space of the actions.
        d_features: width of the model's features.
        trunk: makes the layers between features and output layer, called with widths in and out.
        units: width that the trunk gives.
        discrete: makes the policy where actions are numbers.
        continuous: makes the policy where actions are a box.
        critic: makes the value head.
        horizon: number `H` of imagined steps.
        lambda_: parameter of the lambda return.
        actor_gradient: gradient of the return with respect to the policy: `reinforce` with the slow critic as baseline,
            `dynamics` through the model, `both`, or `auto`, which is `reinforce` for discrete actions.
        mix: share of `dynamics` in `both`; a number or a schedule over updates.
        entropy: scale of the policy's entropy; a number or a schedule over updates.
        actor_lr: Adam learning rate; None where an optimiser of the agent trains the actor.
        critic_lr: Adam learning rate; None where an optimiser of the agent trains the critic.
        slow_interval: number of updates between two moves of the slow critic.
        slow_rate: share of the way that it moves: 1 copies.
        critic_target: critic that the returns are made of, `slow` or `online`; with `online` the slow one only holds
            the learned one back (third version).
        return_scale: divisor of the actor's returns: `none`, or `percentiles` for a running range of their 5th
            to 95th percentile where that is above 1 (third version). With a critic whose codec is Normalized it is the
            codec's sigma, as in PopArt.
        value_of: rewards that the value of a state holds: from that of the `arrival` there on (second version), or of
            the `future` alone (third version).
        residual_weight: share of the Bellman residual in the critic's loss: of returns made of the values that learn,
            whose gradient counts, too; 0 in the papers.

    Raises:
        ValueError: a number is out of range, a schedule cannot be read, returns would be scaled twice, or
            `residual_weight` does not fit the critic.
    """

    return_range: Tensor
    entropy: Tensor
    mix: Tensor

    def __init__(
        self,
        space: gym.Space,
        d_features: int,
        trunk: Trunk = DenseStack,
        units: int = 400,
        discrete: MakeDiscrete = DiscreteActor,
        continuous: MakeContinuous = TruncatedNormalActor,
        critic: Callable[[int, int, Trunk], Head] = Head,
        horizon: int = 15,
        lambda_: float = 0.95,
        actor_gradient: Literal["auto", "reinforce", "dynamics", "both"] = "auto",
        mix: float | str = 0.1,
        entropy: float | str = 2e-3,
        actor_lr: float | None = 8e-5,
        critic_lr: float | None = 2e-4,
        slow_interval: int = 100,
        slow_rate: float = 1.0,
        critic_target: Literal["slow", "online"] = "slow",
        return_scale: Literal["none", "percentiles"] = "none",
        value_of: ValueOf = "arrival",
        residual_weight: float = 0.0,
    ) -> None:
        super().__init__()
        check_choice("actor_gradient", actor_gradient, ("auto", "reinforce", "dynamics", "both"))
        check_choice("critic_target", critic_target, ("slow", "online"))
        check_choice("return_scale", return_scale, ("none", "percentiles"))
        check_choice("value_of", value_of, get_args(ValueOf))
        check_widths(units=units)
        check_ranges(
            ("horizon", horizon, 2, 1 << 20),
            ("lambda_", lambda_, 0.0, 1.0),
            ("slow_interval", slow_interval, 1, 1 << 40),
            ("slow_rate", slow_rate, 0.0, 1.0),
            ("actor_lr", actor_lr or 0.0, 0.0, 1e3),
            ("critic_lr", critic_lr or 0.0, 0.0, 1e3),
            ("residual_weight", residual_weight, 0.0, 1.0),
        )
        check_makers(type(self), space, discrete, continuous)
        self.actor = make_actor(space, d_features, trunk, units, discrete=discrete, continuous=continuous)
        set_noise(self.actor, False)  # its log-probabilities are the same in an update as where it acts
        self.critic = critic(d_features, units, trunk)
        if return_scale != "none" and isinstance(self.critic.codec, Normalized):
            raise ValueError(f"return_scale: {return_scale} scales returns that a Normalized critic scales; use none")
        self.critic.check_residual(residual_weight)
        # A critic that follows the learned one slowly: baseline, target, or what holds the learned one back.
        self.slow_critic = copy.deepcopy(self.critic).requires_grad_(False)
        by_space = "dynamics" if isinstance(space, gym.spaces.Box) else "reinforce"
        self.actor_gradient = by_space if actor_gradient == "auto" else actor_gradient
        self.horizon = horizon
        self.lambda_ = lambda_
        self.slow_interval = slow_interval
        self.slow_rate = slow_rate
        self.critic_target = critic_target
        self.return_scale = return_scale
        self.value_of: ValueOf = value_of
        self.residual_weight = residual_weight
        self._start_schedules(entropy, mix)
        self.register_buffer("return_range", torch.zeros(()))
        self._make_optimizers(actor_lr, critic_lr)

    def _start_schedules(self, entropy: float | str, mix: float | str) -> None:
        # Tensors, so that a compiled update reads the schedules' values of the moment.
        self.schedules = {"entropy": parse_schedule(entropy), "mix": bounded_schedule("mix", mix, 0.0, 1.0)}
        for name, schedule in self.schedules.items():
            self.register_buffer(name, torch.tensor(schedule(0)), persistent=False)

    def _make_optimizers(self, actor_lr: float | None, critic_lr: float | None) -> None:
        if (actor_lr is None) != (critic_lr is None):
            raise ValueError("actor_lr and critic_lr must both be numbers, or both null with an optimizer of all")
        self.actor_optimizer = None if actor_lr is None else make_adam(self.actor.parameters(), actor_lr, ADAM_EPS)
        self.critic_optimizer = None if critic_lr is None else make_adam(self.critic.parameters(), critic_lr, ADAM_EPS)

    def noise(self, rssm: RecurrentModel, rows: int, device: torch.device) -> ImaginationNoise:
        """Everything that `learn` draws from `rows` start states."""
        steps = self.horizon, rows
        return ImaginationNoise(rssm.latent.noise(*steps, device=device), self.actor.noise(*steps, device=device))

    def learn(
        self,
        rssm: RecurrentModel,
        start: State,
        first_discount: Tensor,
        reward: Callable[[Tensor, Tensor], Tensor],
        discount: Callable[[Tensor], Tensor],
        noise: ImaginationNoise,
        announce: Callable[..., Any] = lambda *_: None,
    ) -> dict[str, Tensor]:
        """Imagine from states of the replay, then one step of the actor and one of the critic; see `losses`."""
        assert self.actor_optimizer is not None
        assert self.critic_optimizer is not None
        found = self.losses(rssm, start, first_discount, reward, discount, noise, announce)
        steps = (("actor", self.actor_optimizer, found.actor), ("critic", self.critic_optimizer, found.critic))
        norms = {f"{name}_norm": descend_clipped(optimizer, loss, CLIP_NORM, DECAY) for name, optimizer, loss in steps}
        return found.metrics | norms

    def losses(
        self,
        rssm: RecurrentModel,
        start: State,
        first_discount: Tensor,
        reward: Callable[[Tensor, Tensor], Tensor],
        discount: Callable[[Tensor], Tensor],
        noise: ImaginationNoise,
        announce: Callable[..., Any] = lambda *_: None,
    ) -> Losses:
        """Imagine from states of the replay, and what actor and critic learn from it.

        Args:
            rssm: the model; it is not changed.
            start: `[N, ...]` states.
            first_discount: `[N]` discount of what follows the start states, 0 where they are terminal.
            reward: function that gives the reward `[T, N]` of arriving at features `[T, N, D]`, where actions `[T, N,
                A]` are taken.
            discount: function that gives the discount `[T, N]` after features `[T, N, D]`.
            noise: draws of `noise`.
            announce: `announce` of the agent that this is a part of; it hears of the critic's targets at `on_targets`.
        """
        policies: list[Tensor] = []
        auxiliary = collecting(self.actor)
        # The last action learns where its return is told, or through the model from the value behind it.
        idle = self.actor_gradient == "reinforce" and self.value_of == "arrival"

        def act(state: State, t: int) -> Tensor:
            # What is sampled has a gradient only where the whole trajectory has one.
            with torch.enable_grad(), nullcontext() if idle and t == self.horizon - 1 else auxiliary:
                policies.append(self.actor(state.features.detach()))
            action = self.actor.sample(policies[-1], noise.action[t])
            # A relaxed sample is for gradients that pass through it; where none does, the model gets what it knows.
            return self.actor.executed(action) if self.actor_gradient == "reinforce" else action

        # Imagine, and make the returns of what was imagined; with gradients where the policy learns through them.
        with torch.set_grad_enabled(self.actor_gradient != "reinforce"):
            states, actions = rssm.imagine(start, act, noise.latent)
            features = states.features  # [H + 1, N, D]
            given = first_discount, reward, discount
            rewards, discounts, weight, lead = course(self.value_of, features, actions, *given)
            slow_value = values(self.slow_critic, features)
            value = values(self.critic, features) if self.critic_target == "online" else slow_value
            target = lambda_returns(rewards, discounts, value, self.lambda_)  # [H, N]
        # Statistics of values move first, then both learn in the units that the statistics now give.
        metrics = announce("on_targets", (self.critic, self.slow_critic), target.detach(), weight > 0.0, None) or {}
        scale = self._scale(target.detach())
        told = self.horizon - lead  # actions whose returns are told
        actor, found = self._actor_loss(
            torch.stack(policies[:told]),
            auxiliary,
            actions.detach()[:told],
            (target / scale)[lead:],
            (value / scale)[:told],
            weight[:told],
        )
        imagined = Imagined(*(x.detach() for x in (features, rewards, discounts, target, slow_value[:-1], weight)))
        critic, seen = self._critic_loss(imagined)
        metrics |= {"imagined_reward": rewards.detach().mean(), "imagined_return": target.detach().mean()}
        return Losses(actor, critic, imagined, metrics | found | seen)

    def replay_loss(
        self,
        features: Tensor,
        reward: Tensor,
        terminated: Tensor,
        truncated: Tensor,
        imagined: Imagined,
        discount: float,
    ) -> Tensor:
        """Loss of the critic on a window that was played, of returns that end in imagined ones; it trains the features.

        Source: github.com/danijar/dreamerv3, `repl_loss`; Hafner et al. 2025, section "Critic learning".

        Args:
            features: `[T, B, D]` of the window's states, with gradients.
            reward: `[T, B]` of arriving.
            terminated: `[T, B]` bool.
            truncated: `[T, B]` bool.
            imagined: what was imagined from these states.
            discount: discount per step.

        Returns:
            Scalar, mean over all rows but the last; rows that end an episode count as 0.
        """
        shape, last = reward.shape, terminated | truncated
        first, slow = (x[0].view(shape) for x in (imagined.target, imagined.slow_value))
        target = replay_returns(reward, terminated, last, first, discount, self.lambda_)
        prediction = self.critic(features[:-1])
        loss = self.critic.loss(prediction, target)
        if self.critic_target == "online":
            loss = loss + self.critic.loss(prediction, slow[:-1])
        return ((~last[:-1]).float() * loss).mean()

    def _actor_loss(
        self,
        policy: Tensor,
        auxiliary: collecting,
        actions: Tensor,
        target: Tensor,
        value: Tensor,
        weight: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss on actions `[K, N, A]` of states whose policies, values and weights are given, and on their returns."""
        entropy = self.actor.entropy(policy)
        if self.actor_gradient == "dynamics":
            loss = -target
        else:
            taken = self.actor.executed(actions)  # only a class has a probability
            loss = reinforce(self.actor.log_prob(policy, taken), target, value)
            if self.actor_gradient == "both":
                loss = self.mix * -target + (1.0 - self.mix) * loss
        loss = (weight * (loss - self.entropy * entropy)).mean()
        balance = auxiliary.losses
        loss = weighted_sum({"actor": loss, **balance}, {"actor": 1.0, **auxiliary.weights})
        found = {f"actor/{name}": x.detach() for name, x in balance.items()}
        return loss, found | {"actor_loss": loss.detach(), "actor_entropy": entropy.detach().mean()}

    def _critic_loss(self, seen: Imagined) -> tuple[Tensor, dict[str, Tensor]]:
        residual = self.residual_weight > 0.0  # looks at the last state, too
        with collecting(self.critic) as auxiliary:
            predictions = self.critic(seen.features if residual else seen.features[:-1])
        prediction = predictions[: len(seen.target)]
        balance = auxiliary.losses
        loss = self.critic.loss(prediction, seen.target)
        if residual:
            own = lambda_returns(seen.reward, seen.discount, self.critic.mean(predictions), self.lambda_)
            loss = with_residual(loss, self.critic.loss(prediction, own), self.residual_weight)
        if self.critic_target == "online":
            loss = loss + self.critic.loss(prediction, seen.slow_value)
        loss = weighted_sum({"critic": (seen.weight * loss).mean(), **balance}, {"critic": 1.0, **auxiliary.weights})
        found = {f"critic/{name}": x.detach() for name, x in balance.items()}
        value = self.critic.mean(prediction.detach()).mean()
        return loss, found | {"critic_loss": loss.detach(), "critic_value": value}

    def _scale(self, target: Tensor) -> Tensor | float:
        """The divisor of advantages; moves its running estimate."""
        if isinstance(self.critic.codec, Normalized):
            return self.critic.codec.sigma[0]
        if self.return_scale == "none":
            return 1.0
        low, high = torch.quantile(target.flatten(), target.new_tensor([0.05, 0.95]))
        (found,) = average_over_ranks([high - low], [high - low])
        self.return_range.lerp_(found, 0.01)
        return self.return_range.clamp_min(1.0)

    def advance(self, updates: int) -> None:
        """Move the slow critic when it is due, and the schedules, after this many earlier updates."""
        if updates % self.slow_interval == 0:
            follow(self.slow_critic, self.critic, self.slow_rate)
        self.set_schedules(updates + 1)

    def set_schedules(self, updates: int) -> None:
        """Write the values of this update into the tensors that a compiled update reads."""
        for name, schedule in self.schedules.items():
            getattr(self, name).fill_(schedule(updates))
