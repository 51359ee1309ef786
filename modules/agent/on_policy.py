"""Agents with a policy and a value that learn from windows of what they did: networks, acting, and steps of windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import gymnasium as gym
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn

from modules.agent.agent import Agent
from modules.agent.event_rewards import EventRewards
from modules.agent.remembering import Carried, MakeMemory, Past, check_longest, start_and_noise, stored_width
from modules.arguments.checks import check_widths
from modules.batch import SequenceBatch, Spaces, StoredWindows, by_key
from modules.contracts import Readable, ReplayOffer
from modules.networks.action_spaces import action_width
from modules.networks.make_actor import MakeContinuous, MakeDiscrete, check_makers, make_actor
from modules.networks.perception import MakeEncoder, Perception
from modules.networks.recurrent import with_past
from modules.networks.trunks import Trunk
from modules.networks.updates import set_noise
from modules.networks.value_codecs import Normalized
from modules.networks.value_heads import Head

MakeCritic = Callable[[int, int, Trunk], Head]
"""`Head`, or a partial of it, called with the widths of features and trunk, and the trunk."""


class Steps(NamedTuple):
    """Transitions of windows, each in the place of the row that it starts from.

    Attributes:
        valid: `[T - 1, B]` bool, the next row is what followed: no episode starts there.
        taken: `[T - 1, B, A]` actions as the actor sees them; zeros where no action was taken.
        discount: `[T - 1, B]` factor on what follows; 0 after a terminal state, and where nothing is known to follow.
        reward: `[T - 1, B]` rewards that are learned from.
    """

    valid: Tensor
    taken: Tensor
    discount: Tensor
    reward: Tensor


class OnPolicy(Agent):
    """Base of agents that store the log-probability of every action, and learn from windows with what is stored.

    An algorithm keeps its networks' makers with `keep_makers` in its constructor.

    Attributes:
        perception: reads observations.
        memory: carries the past of an episode to the torso, see `modules.networks.recurrent.with_past`; None for an
            agent that sees the present alone.
        torso: dense layers behind it, whose output the policy's output layer takes.
        actor: the policy's output layer.
        critic: the value's output layer.
        value_perception: reads observations for the value alone; None where both share what reads them.
        value_torso: likewise.
    """

    events = frozenset({"on_targets"})
    batch_type: ClassVar[type[Readable] | None] = StoredWindows
    stored_width = 1
    discount: float
    """Discount factor per step."""
    residual_weight: float = 0.0
    """Share of the Bellman residual in the value's loss."""
    internal: EventRewards | None = None
    """Rewards of events that are learned from in place of the environment's."""

    def keep_makers(
        self,
        encoder: MakeEncoder,
        trunk: Trunk,
        units: int,
        discrete: MakeDiscrete,
        continuous: MakeContinuous,
        critic: MakeCritic,
        task_key: str | None,
        separate: bool = False,
        memory: MakeMemory | None = None,
    ) -> None:
        """Keep what makes the networks in `build`, when the spaces are known.

        Raises:
            ValueError: no layer can have this width.
        """
        check_widths(units=units)
        self.make_encoder = encoder
        self.make_trunk = trunk
        self.units = units
        self.make_policy = {"discrete": discrete, "continuous": continuous}
        self.make_critic = critic
        self.task_key = task_key
        self.separate = separate
        self.make_memory = memory

    def build_networks(self, spaces: Spaces) -> None:
        """Make perception, torso, actor and critic.

        Raises:
            ValueError: the spaces are not of a kind that it can learn from or tell no events, or `task_key` or the
                residual's weight does not fit the value head.
        """
        if self.internal is not None:
            self.internal.check_spaces(spaces)
        check_makers(type(self), spaces.action, **self.make_policy)  # type: ignore[arg-type]
        perception = Perception(spaces, self.make_encoder, self.make_trunk, self.units)
        memory = None
        if self.make_memory is not None:
            memory = self.make_memory(perception.width + action_width(spaces.action) + 1)
        torso = self.make_trunk(perception.width if memory is None else memory.width, self.units)
        actor = make_actor(spaces.action, self.units, no_layers, self.units, **self.make_policy)  # type: ignore[arg-type]
        # Log-probabilities are to be the same in an update as where it acts.
        for network in (perception, memory, torso, actor):
            if network is not None:
                set_noise(network, False)
        self.perception = perception
        self.memory = memory
        self.remembers = memory is not None  # else its state is there for the replay alone
        if memory is not None:
            self.stored_width = stored_width(memory)
        self.torso = torso
        self.actor = actor
        self.critic = self.make_critic(self.units, self.units, no_layers)
        self.critic.check_residual(self.residual_weight)
        self._check_task(spaces.observations_by_key())
        self.value_perception: Perception | None = None
        self.value_torso: nn.Module | None = None
        if self.separate:
            self.value_perception = Perception(spaces, self.make_encoder, self.make_trunk, self.units)
            self.value_torso = self.make_trunk(self.value_perception.width, self.units)
            for network in (self.value_perception, self.value_torso):  # advantages are not to change by chance
                set_noise(network, False)

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
    def initial_state(self, batch: int) -> Tensor | Carried:
        nothing = torch.zeros(batch, device=self.device)
        if self.memory is None:
            return nothing
        zeros = nothing.new_zeros
        action = self.actor.decode(zeros(batch, self.actor.width))
        memory, noise = zeros(batch, self.memory.state_width), zeros(batch, self.memory.noise_width)
        return Carried(memory, action, nothing, nothing == 0, nothing.clone(), noise)

    @torch.no_grad()
    def act(
        self, observation: Tensor | dict[str, Tensor], state: Any = None, *, explore: bool
    ) -> tuple[Tensor, Tensor | Carried]:
        """Actions for `[B, ...]` observations; without `explore` neither actions nor a memory's noise are drawn.

        Without a memory the state that it returns is the actions' log-probability, `[B]`.
        """
        seen = self.perception({key: x.unsqueeze(0) for key, x in by_key(observation).items()})
        if self.memory is None:
            return self._choose(self.torso(seen)[0], explore)
        before: Any = self.initial_state(seen.shape[1]) if state is None else state
        noise = torch.randn_like(before.noise) if explore else torch.zeros_like(before.noise)
        past = Past(*(x.unsqueeze(0) for x in (before.action, before.reward, before.first)))
        features, memory = self.recall(seen, past, before.memory, noise.unsqueeze(0))
        action, log_prob = self._choose(features[0], explore)
        nothing = torch.zeros_like(log_prob)
        return action, Carried(memory, action, nothing, nothing != 0, log_prob, noise)

    def _choose(self, features: Tensor, explore: bool) -> tuple[Tensor, Tensor]:
        """Actions `[B, ...]` in the environment's units from features `[B, D]`, and their log-probability `[B]`."""
        policy = self.actor(features)
        if explore:
            chosen = self.actor.sample(policy, self.actor.noise(len(policy), device=self.device))
        else:
            chosen = self.actor.mode(policy)
        action = self.actor.decode(chosen)
        return action, self.actor.log_prob(policy, self.actor.encode(action))

    def rewarded(self, state: Any, reward: Tensor) -> Any:
        return state if self.memory is None else state._replace(reward=reward)

    def acted(self, state: Any, action: Tensor) -> Any:
        return state if self.memory is None else state._replace(action=action)

    def stored_state(self, state: Any) -> Tensor:
        """The log-probability, `[B, 1]`; with a memory `[B, 1 + Z + S]`, with its noise and its state behind that."""
        if self.memory is None:
            return state.unsqueeze(-1)
        return state.stored()

    def recall(self, seen: Tensor, past: Past, state: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Features `[T, B, D]` of rows, and the memory's state `[B, S]` behind them.

        Args:
            seen: `[T, B, F]` what is perceived of the observations.
            past: what led to the rows.
            state: `[B, S]` before the first row.
            noise: `[T, B, Z]`.
        """
        assert self.memory is not None
        rows = with_past(seen, self.actor.encode(past.previous_action), past.reward, past.is_first)
        drawn = (noise,) if self.memory.noise_width else ()
        recalled, state = self.memory(rows, past.is_first, state, *drawn)
        return self.torso(recalled), state

    def features(self, observation: dict[str, Tensor]) -> Tensor:
        """`{key: [T, B, ...]}` to what the policy's output layer takes, `[T, B, D]`."""
        return self.torso(self.perception(observation))

    def value_features(self, observation: dict[str, Tensor]) -> Tensor:
        """`{key: [T, B, ...]}` to what the value's output layer takes, `[T, B, D]`; where shared, the policy's."""
        if self.value_perception is None or self.value_torso is None:
            return self.features(observation)
        return self.value_torso(self.value_perception(observation))

    # ------------------------------------------------------------------------------------------------------- windows
    def check_run(self, trainer: Trainer, data: object) -> None:
        """As of every agent, and rewards of events are not to be scaled by the data."""
        super().check_run(trainer, data)
        if self.internal is not None:
            self.internal.check_data(data)

    def noise_for(self, batch: StoredWindows) -> Any:
        """`[T, B, Z]` of the memory in rows that no action followed; None where nothing is drawn."""
        if self.memory is None or not self.memory.noise_width:
            return None
        rows, streams, _ = batch.stored.shape
        return torch.randn(rows, streams, self.memory.noise_width, device=batch.stored.device)

    def features_of(self, seen: Tensor, batch: StoredWindows, noise: Tensor | None = None) -> Tensor:
        """`[T, B, D]` features of windows: with a memory those of where they were played.

        It goes on from the stored state before the first row, and takes the stored noise of each row.

        Args:
            seen: `[T, B, F]` what is perceived of the observations.
            batch: `[T, B]` windows.
            noise: see `noise_for`.
        """
        if self.memory is None:
            return self.torso(seen)
        state, noise = start_and_noise(self.memory, batch, noise)
        rows = batch.sequence
        return self.recall(seen, Past(rows.previous_action, rows.reward, rows.is_first), state, noise)[0]

    def meet(self, replay: ReplayOffer | None) -> None:
        """See that windows have steps.

        Raises:
            ValueError: they have a single row or more than the memory holds, or are no windows.
        """
        super().meet(replay)
        if replay is not None:
            self._check_length(replay.rows)
            if self.memory is not None:
                check_longest(self.memory, replay)

    def check_batch(self, batch: StoredWindows) -> None:
        self._check_length(len(batch.stored))
        if (width := batch.stored.shape[-1]) != self.stored_width:
            raise ValueError(
                f"what is stored with a row has a width of {width}, and the agent stores {self.stored_width}: windows "
                "of an agent with another memory are none that it can go on from"
            )

    def _check_length(self, rows: int) -> None:
        if rows < 2:
            name = type(self).__name__
            raise ValueError(f"data.sequence_length must be at least 2: {name} learns from what leads from row to row")

    def steps_of(self, rows: SequenceBatch) -> Steps:
        """The steps of `[T, B]` windows; a time-out is bootstrapped, and nothing crosses an episode's start."""
        valid = ~rows.is_first[1:]
        taken = self.actor.encode(rows.previous_action[1:]) * valid.unsqueeze(-1)  # what no action led to is no action
        reward = rows.reward if self.internal is None else self.internal.of(rows)
        return Steps(valid, taken, self.discount * (valid & ~rows.terminated[1:]), reward[1:])

    def task_of(self, observation: dict[str, Tensor]) -> Tensor | None:
        """`[...]` int64 number of the task that each observation is of; None for one task."""
        return None if self.task_key is None else observation[self.task_key].argmax(-1)

    def unit_of(self, task: Tensor | None) -> Tensor | float:
        """Divisor of advantages, whose unit is a Normalized codec's sigma: of each task in `task`."""
        codec = self.critic.codec
        if not isinstance(codec, Normalized):
            return 1.0
        return (codec.sigma[0] if task is None else codec.sigma[task]).float()


def of(task: Tensor | None) -> dict[str, Tensor]:
    """Arguments of a codec that says what tasks there are."""
    return {} if task is None else {"task": task}


def no_layers(d_in: int, units: int) -> nn.Module:
    """A trunk that gives what it is given."""
    assert d_in == units
    return nn.Identity()
