"""A2C: a synchronous advantage actor-critic, with V-trace for what an older policy did.

Sources: Mnih et al. 2016, "Asynchronous Methods for Deep Reinforcement Learning" (https://arxiv.org/abs/1602.01783), in
its synchronous form; Espeholt et al. 2018, "IMPALA" (https://arxiv.org/abs/1802.01561), for the targets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import gymnasium as gym
import torch
from torch import Tensor, nn

from modules.agent.agent import Agent
from modules.agent.descent import descend_clipped, make_adam, weighted_sum
from modules.arguments.checks import check_choice, check_ranges, check_widths
from modules.batch import Spaces, StoredWindows, by_key
from modules.contracts import ReplayOffer, Update
from modules.functional.pessimism import with_residual
from modules.functional.returns import generalised_advantages, vtrace, vtrace_advantages
from modules.networks.actors import DiscreteActor, TruncatedNormalActor
from modules.networks.auxiliary_losses import collecting
from modules.networks.blocks import DenseStack
from modules.networks.encoders import Encoder
from modules.networks.make_actor import MakeContinuous, MakeDiscrete, make_actor
from modules.networks.perception import MakeEncoder, Perception
from modules.networks.trunks import Trunk
from modules.networks.updates import set_noise
from modules.networks.value_codecs import Normalized
from modules.networks.value_heads import Head


class A2C(Agent):
    """A policy and a value on one shared trunk, one update per batch of windows.

    The windows `[B, T]` hold the log-probability of every action under the policy that took it, as what is stored;
    with `replay: LatestWindows` they are what the present policy just did, every step once, and `T` varies. Transitions
    lead from each row to the next, unless that one starts an episode; a time-out is bootstrapped.

    Args:
        spaces: announced by the datamodule.
        encoder: makes the network that reads observations, called with their spaces, `trunk` and `units`.
        trunk: makes dense networks from their widths of input and output: in the encoder, and the one that policy and
            value share, which have only an output layer of their own.
        units: width that each trunk gives.
        discrete: makes the policy where actions are numbers.
        continuous: makes the policy where actions are a box.
        critic: makes the value head. With the codec Normalized, as of `PopArtHead`, advantages are in units of its
            sigma.
        task_key: key of the observation that tells the task as a one-hot vector, for a value head with an output per
            task; the policy sees it as all others.
        discount: discount factor gamma per step.
        lambda_: share of later corrections in the V-trace targets; 1 sums all rewards of the window.
        advantage: weights of the policy's gradient: `vtrace` is IMPALA's, the reward and the target of what follows,
            minus the value; `gae` the generalised advantage, the target minus the value. Both are the same where
            `lambda_` is 1.
        entropy: scale of the policy's entropy.
        critic_scale: weight of the value's loss.
        residual_weight: share of the Bellman residual in the value's loss: of targets made of the values that learn,
            whose gradient counts, too; 0 in the papers.
        lr: Adam learning rate.
        clip_norm: Euclidean norm that the gradient is scaled down to.
        compile: `update` compiles the whole update as one graph, for each length of the windows anew: up to `T + 1`
            graphs with LatestWindows, unless every episode is long.

    Raises:
        ValueError: the spaces are not of a kind that it can learn from, `task_key` or `residual_weight` does
            not fit the value head, or a number is out of range.
    """

    events = frozenset({"on_targets"})
    batch_type = StoredWindows
    batch_source = "OnlineDataModule, for A2C learns from what it did itself"
    stored_width = 1
    remembers = False  # its state is there for the replay alone

    def __init__(
        self,
        spaces: Spaces | None = None,
        encoder: MakeEncoder = Encoder,
        trunk: Trunk = DenseStack,
        units: int = 64,
        discrete: MakeDiscrete = DiscreteActor,
        continuous: MakeContinuous = TruncatedNormalActor,
        critic: Callable[[int, int, Trunk], Head] = Head,
        task_key: str | None = None,
        discount: float = 0.99,
        lambda_: float = 1.0,
        advantage: Literal["vtrace", "gae"] = "vtrace",
        entropy: float = 0.01,
        critic_scale: float = 0.5,
        residual_weight: float = 0.0,
        lr: float = 1e-3,
        clip_norm: float = 1.0,
        compile: Literal["off", "update"] = "off",
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["spaces"])
        # Before any network is made, so that a mistake is named at once.
        check_widths(units=units)
        check_ranges(
            ("discount", discount, 0.0, 1.0),
            ("lambda_", lambda_, 0.0, 1.0),
            ("entropy", entropy, 0.0, 1e12),
            ("critic_scale", critic_scale, 0.0, 1e12),
            ("residual_weight", residual_weight, 0.0, 1.0),
            ("lr", lr, 0.0, 1e3),
            ("clip_norm", clip_norm, 1e-12, 1e12),
        )
        self.make_encoder = encoder  # made in `build`, when the spaces are known
        self.make_trunk = trunk
        self.units = units
        self.make_policy = {"discrete": discrete, "continuous": continuous}
        self.make_critic = critic
        self.task_key = task_key
        self.discount = discount
        self.lambda_ = lambda_
        self.residual_weight = residual_weight
        self.lr = lr
        self.clip_norm = clip_norm
        check_choice("compile", compile, ("off", "update"))
        check_choice("advantage", advantage, ("vtrace", "gae"))
        self.advantage = advantage
        self.scales = {"policy": 1.0, "critic": critic_scale, "entropy": entropy}
        self.compile_mode = compile
        self.build_for(spaces)

    def build(self, spaces: Spaces) -> None:
        perception = Perception(spaces, self.make_encoder, self.make_trunk, self.units)
        torso = self.make_trunk(perception.width, self.units)
        actor = make_actor(spaces.action, self.units, _no_layers, self.units, **self.make_policy)  # type: ignore[arg-type]
        for network in (perception, torso, actor):  # log-probabilities are the same in an update as where it acts
            set_noise(network, False)
        self.perception = perception
        self.torso = torso
        self.actor = actor
        self.critic = self.make_critic(self.units, self.units, _no_layers)
        self.critic.check_residual(self.residual_weight)
        self._check_task(spaces.observations_by_key())
        self.optimizer = make_adam(self.parameters(), self.lr)

    def _check_task(self, parts: dict[str, gym.Space]) -> None:
        codec, key = self.critic.codec, self.task_key
        tasks = codec.width if isinstance(codec, Normalized) else 0
        if key is None:
            if tasks > 1:
                raise ValueError(f"the value head has an output for each of {tasks} tasks: name the task_key")
            return
        if tasks == 0:
            raise ValueError(f"task_key would be ignored: the codec {type(codec).__name__} has no outputs for tasks")
        space = parts.get(key)
        if not isinstance(space, gym.spaces.Box) or space.shape != (tasks,):
            raise ValueError(
                f"task_key {key!r} must be an observation with one number for each of the value head's {tasks} tasks, "
                f"got {space}; the observations are {', '.join(parts)}"
            )

    # -------------------------------------------------------------------------------------------------------- acting
    def initial_state(self, batch: int) -> Tensor:
        return torch.zeros(batch, device=self.device)

    @torch.no_grad()
    def act(
        self, observation: Tensor | dict[str, Tensor], state: Any = None, *, explore: bool
    ) -> tuple[Tensor, Tensor]:
        """Actions for `[B, ...]` observations; the state that it returns is their log-probability, `[B]`."""
        seen = {key: x.unsqueeze(0) for key, x in by_key(observation).items()}
        policy = self.actor(self._features(seen)[0])
        if explore:
            chosen = self.actor.sample(policy, self.actor.noise(len(policy), device=self.device))
        else:
            chosen = self.actor.mode(policy)
        action = self.actor.decode(chosen)
        return action, self.actor.log_prob(policy, self.actor.encode(action))

    def stored_state(self, state: Tensor) -> Tensor:
        """The log-probability, `[B, 1]`."""
        return state.unsqueeze(-1)

    def _features(self, observation: dict[str, Tensor]) -> Tensor:
        """`{key: [T, B, ...]}` to `[T, B, D]`."""
        return self.torso(self.perception(observation))

    # -------------------------------------------------------------------------------------------------------- update
    def meet(self, replay: ReplayOffer | None) -> None:
        """See that windows have steps.

        Raises:
            ValueError: they have a single row, or are no windows.
        """
        super().meet(replay)
        if replay is not None:
            self._check_length(replay.rows)

    def check_batch(self, batch: StoredWindows) -> None:
        self._check_length(len(batch.stored))

    def _check_length(self, rows: int) -> None:
        if rows < 2:
            raise ValueError("data.sequence_length must be at least 2: A2C learns from what leads from row to row")

    def learn(self, batch: StoredWindows) -> Update:
        rows, log_prob = batch.sequence, batch.stored.squeeze(-1)  # [T, B]
        with collecting(self) as auxiliary:
            features = self._features(rows.observation)  # [T, B, D]
            policy = self.actor(features[:-1])
        valid = ~rows.is_first[1:]  # transitions `[T - 1, B]`, each in the place of the row that it starts from
        taken = self.actor.encode(rows.previous_action[1:]) * valid.unsqueeze(-1)  # what no action led to is no action
        present = self.actor.log_prob(policy, taken)
        task = None if self.task_key is None else rows.observation[self.task_key].argmax(-1)  # [T, B]
        # Targets and advantages; rows of an episode's start have no action before them and count nothing.
        with torch.no_grad():
            value = self.critic.mean(self.critic(features), **_of(task))
            rho = torch.where(valid, (present - log_prob[1:]).exp(), 0.0)
            discount = self.discount * (valid & ~rows.terminated[1:])
            targets = vtrace(rows.reward[1:], discount, value, rho, self.lambda_)
            if self.advantage == "gae":
                advantage = generalised_advantages(value, targets)
            else:
                advantage = vtrace_advantages(rows.reward[1:], discount, value, targets, rho)
        tasks, task = task, None if task is None else task[:-1]
        metrics = self.announce("on_targets", (self.critic,), targets, valid, task) or {}

        # From here on the value head may be another one, which gives the same values.
        residual = self.residual_weight > 0.0  # looks at the last value, too
        with auxiliary:
            predictions = self.critic(features if residual else features[:-1])
        prediction = predictions[: len(targets)]
        error = self.critic.loss(prediction, targets, **_of(task))
        if residual:
            own = vtrace(rows.reward[1:], discount, self.critic.mean(predictions, **_of(tasks)), rho, self.lambda_)
            error = with_residual(error, self.critic.loss(prediction, own, **_of(task)), self.residual_weight)
        entropy = self.actor.entropy(policy)
        terms = {"policy": -present * advantage / self._unit(task), "critic": error, "entropy": -entropy}
        losses = {name: (term * valid).mean() for name, term in terms.items()}  # the same weights on every rank
        balance = auxiliary.losses
        loss = weighted_sum(losses | balance, self.scales | auxiliary.weights)
        norm = descend_clipped(self.optimizer, loss, self.clip_norm)
        metrics |= {f"{name}_loss": loss.detach() for name, loss in losses.items() if name != "entropy"}
        metrics |= {name: loss.detach() for name, loss in balance.items()}
        seen = valid.float().mean().clamp_min(1e-9)
        means = {"entropy": entropy.detach(), "target": targets, "rho": rho}
        return Update(metrics | {"norm": norm} | {name: (x * valid).mean() / seen for name, x in means.items()})

    def _unit(self, task: Tensor | None) -> Tensor | float:
        """Divisor of the advantages."""
        codec = self.critic.codec
        if not isinstance(codec, Normalized):
            return 1.0
        return (codec.sigma[0] if task is None else codec.sigma[task]).float()


def _of(task: Tensor | None) -> dict[str, Tensor]:
    """Arguments of a codec that says what tasks there are."""
    return {} if task is None else {"task": task}


def _no_layers(d_in: int, units: int) -> nn.Module:
    """A trunk that gives what it is given."""
    assert d_in == units
    return nn.Identity()
