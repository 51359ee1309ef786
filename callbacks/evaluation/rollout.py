"""Episodes of a policy in a Gymnasium environment: true returns, fixed seeds, all members in one pass."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from datamodules.envs.episode_infos import Numbers
from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.parallel import protected
from datamodules.envs.restarting import Protection
from datamodules.envs.stepping import MAX_EPISODE_STEPS, EpisodeStep, SeededEpisodes
from datamodules.played.policies import RandomPolicy
from modules.agent.random_state import isolated_randomness
from modules.arguments.checks import check_sizes
from modules.functional.recurrent_state import restart

EVALUATION = Protection(same_episodes=True)
OPTION = ", or raise max_episode_steps"
NAME = "environment"
"""Key of a vector environment's metadata that names the environment, for errors."""


class Rollouts(NamedTuple):
    """Finished episodes of every member, in the order of their seeds.

    Attributes:
        returns: `[M, E]` undiscounted sums of the environment's own rewards; NaN for a member that is not alive.
        lengths: `[M, E]` steps; 0 for a member that is not alive.
        numbers: numbers by member that the environment reported at the end of each episode, such as its success;
            empty where it reported none, and for a member that is not alive.
    """

    returns: np.ndarray
    lengths: np.ndarray
    numbers: list[list[Numbers]]


class Player(Protocol):
    """A policy that plays episodes, or a population of them: an agent, or one that needs no training."""

    @property
    def alive(self) -> Sequence[bool]: ...
    @property
    def member_names(self) -> tuple[str, ...]: ...
    @property
    def device(self) -> torch.device: ...
    def initial_state(self, batch: int) -> Any: ...
    def act(self, observation: Any, state: Any = None, *, explore: bool) -> tuple[Tensor, Any]: ...
    def rewarded(self, state: Any, reward: Tensor) -> Any: ...


class PlayingModule(Player, Protocol):
    """A player with networks: an agent, or a policy that looks ahead."""

    training: bool

    def eval(self) -> Any: ...
    def train(self, mode: bool = True) -> Any: ...


class RandomPlayer:
    """The random policy as a player: a population of one, which draws the actions of one environment after another."""

    device = torch.device("cpu")
    alive = (True,)
    member_names = ("",)

    def __init__(self, space: gym.Space, seed: int) -> None:
        self._policy = RandomPolicy(space, None, seed)

    def initial_state(self, batch: int) -> range:
        return range(batch)

    def act(self, observation: Any, state: Any = None, *, explore: bool) -> tuple[Tensor, Any]:
        keyed = observation if isinstance(observation, Mapping) else {}
        seen = [{key: values[i] for key, values in keyed.items()} for i in state]
        return torch.from_numpy(np.stack([self._policy(row) for row in seen])), state

    def rewarded(self, state: Any, reward: Tensor) -> Any:
        return state


def evaluate_policy(
    agent: PlayingModule,
    environment: str | EnvironmentSpec | VectorEnv,
    episodes: int,
    seed: int,
    *,
    parallel: int = 10,
    max_episode_steps: int = MAX_EPISODE_STEPS,
    protection: Protection = EVALUATION,
) -> Rollouts:
    """Play `episodes` deterministic episodes per member.

    Episode `e` of every member starts from `reset(seed=seed + e)`, whichever environment plays it, so the result does
    not depend on `parallel` (up to the last bit of matrix products of another batch size). The global random generators
    are left untouched.

    An episode in which the environment fails is not counted: it is played again from its beginning, with a warning, in
    an environment that is made anew. An environment that fails more often than is forgiven is an error, and so is an
    observation or a reward that is not finite.

    Args:
        agent: agent that plays, with `act(explore=False)`; its training mode is restored afterwards.
        environment: registered id, specification of the environment, or vector environment of `M * P` environments
            from `evaluation_environments`, which are kept open.
        episodes: number of episodes `E` of each member.
        seed: seed of the first episode.
        parallel: number of environments for each member, where they are made here.
        max_episode_steps: steps beyond which an episode is taken to have no end.
        protection: protection of environments that are made here.

    Raises:
        ValueError: `episodes` is not positive, the environment cannot be made, fails for good or returns invalid
            values, an episode does not end, or the vector environment resets by itself or does not divide among the
            members.
    """
    check_sizes(episodes=episodes)
    if isinstance(environment, str):
        environment = EnvironmentSpec(environment)
    if isinstance(environment, EnvironmentSpec):
        count = len(agent.member_names) * min(parallel, episodes)
        made = evaluation_environments(environment, count, seed, protection)
        try:
            return evaluate_policy(agent, made, episodes, seed, max_episode_steps=max_episode_steps)
        finally:
            made.close()
    was_training = agent.training
    agent.eval()
    try:
        with isolated_randomness(seed, agent.device), torch.no_grad():
            return _play(agent, environment, episodes, seed, max_episode_steps)
    finally:
        agent.train(was_training)


def evaluation_environments(
    spec: EnvironmentSpec, count: int, seed: int, protection: Protection = EVALUATION
) -> VectorEnv:
    """`count` environments in this process that reset when they are told to, each protected.

    Raises:
        ValueError: the environment cannot be made, or fails at its first reset.
    """
    made = protected(spec, count, seed=seed, autoreset=AutoresetMode.DISABLED, protection=protection)
    made.metadata[NAME] = spec.id
    return made


def warn_of_silence(rollouts: Rollouts, names: Sequence[str]) -> None:
    """Warn of numbers that were asked for and that no episode reported."""
    told = {name for member in rollouts.numbers for numbers in member for name in numbers}
    silent = [name for name in names if name not in told]
    if silent:
        warnings.warn(f"episode_infos: no episode told a number {', '.join(silent)} in its last info", stacklevel=2)


def evaluate_random(
    environment: VectorEnv, episodes: int, seed: int, *, max_episode_steps: int = MAX_EPISODE_STEPS
) -> Rollouts:
    """Play the same episodes as `evaluate_policy`, as a population of one, with actions drawn from the action space.

    Raises:
        ValueError: an episode does not end, or the vector environment resets by itself.
    """
    player = RandomPlayer(environment.single_action_space, seed)
    return evaluate_player(player, environment, episodes, seed, max_episode_steps=max_episode_steps)


def evaluate_player(
    player: Player, environment: VectorEnv, episodes: int, seed: int, *, max_episode_steps: int = MAX_EPISODE_STEPS
) -> Rollouts:
    """Play the same episodes as `evaluate_policy` with any player.

    Raises:
        ValueError: an episode does not end, or the vector environment resets by itself.
    """
    with isolated_randomness(seed, player.device), torch.no_grad():
        return _play(player, environment, episodes, seed, max_episode_steps)


class _Schedule:
    """Which environment plays which episode of which member, and the results of the episodes.

    Args:
        player: policies that play.
        environments: number of environments, which are dealt evenly to the members.
        episodes: episodes of each member.
        seed: seed of the first episode.

    Raises:
        ValueError: the environments do not divide among the members.
    """

    def __init__(self, player: Player, environments: int, episodes: int, seed: int) -> None:
        members = len(player.member_names)
        if environments % members:
            raise ValueError(f"{environments} environments do not divide among {members} members")
        each = environments // members
        self.episodes = episodes
        self.seed = seed
        self.member = np.repeat(np.arange(members), each)
        self.alive = np.array(player.alive or [True] * members)
        self.returns = np.full((members, episodes), np.nan)
        self.lengths = np.zeros((members, episodes), dtype=np.int64)
        self.numbers: list[list[Numbers]] = [[{} for _ in range(episodes)] for _ in range(members)]
        self.episode = np.tile(np.arange(each), members)
        self.following = np.full(members, each)  # next episode of each member that no environment plays yet
        self.totals = np.zeros(environments)

    @property
    def needed(self) -> np.ndarray:
        """`[N]` bool, the episode that the environment plays is counted."""
        return (self.episode < self.episodes) & self.alive[self.member]

    @property
    def seeds(self) -> list[int]:
        """`N` seeds of the episodes that the environments play."""
        return [self.seed + int(e) for e in self.episode]

    def end(self, step: EpisodeStep, lengths: np.ndarray) -> None:
        """Write down the episodes that have ended, and choose the next ones; one that failed is played again."""
        for row in np.flatnonzero(step.ended & ~step.failed).tolist():
            member, episode = self.member[row], self.episode[row]
            if episode < self.episodes:
                self.returns[member, episode], self.lengths[member, episode] = self.totals[row], lengths[row]
                self.numbers[member][episode] = step.numbers.get(row, {})
            self.episode[row] = self.following[member]
            self.following[member] += 1
        self.totals[step.ended] = 0.0

    def rollouts(self) -> Rollouts:
        """All episodes, without those of members that are not alive."""
        dead = ~self.alive
        self.returns[dead], self.lengths[dead] = np.nan, 0
        numbers = [mine if lives else [] for mine, lives in zip(self.numbers, self.alive, strict=True)]
        return Rollouts(self.returns, self.lengths, numbers)


def _play(player: Player, environment: VectorEnv, episodes: int, seed: int, limit: int) -> Rollouts:
    schedule = _Schedule(player, environment.num_envs, episodes, seed)
    count, member, device = environment.num_envs, schedule.member, player.device
    played = SeededEpisodes(environment, environment.metadata.get(NAME, "of this evaluation"), limit, OPTION)
    neutral = _neutral_action(environment.single_action_space)
    observation = played.begin(schedule.seeds)
    state = player.initial_state(count)
    while schedule.needed.any():
        action, state = player.act(to_tensors(observation, device), state, explore=False)
        # A member whose action is not finite has diverged: it plays no more, and its environments only keep step.
        sent = np.array(action.cpu())  # a copy, since rows of dead members are overwritten
        finite = np.isfinite(sent.reshape(count, -1)).all(axis=1)
        schedule.alive &= np.bincount(member, ~finite, len(schedule.alive)) == 0
        sent[~schedule.alive[member]] = neutral

        step = played.step(sent, schedule.needed)
        observation = step.observation
        state = player.rewarded(state, torch.from_numpy(step.reward).to(device, torch.float32))
        schedule.totals += step.reward
        if not step.ended.any():
            continue

        # The next episodes start with fresh recurrent states, as far as environments are free.
        schedule.end(step, played.steps)
        observation = played.begin(schedule.seeds, step.ended)
        state = restart(state, player.initial_state(count), torch.from_numpy(step.ended).to(device))
    return schedule.rollouts()


def to_tensors(observation: Any, device: torch.device) -> Tensor | dict[str, Tensor]:
    """Observations `[B, ...]`, or a dict of them by key, in the types of training batches.

    Floats are float32, bytes and flags stay, all other integers are int64.
    """
    if isinstance(observation, Mapping):
        return {key: _to_tensor(value, device) for key, value in observation.items()}
    return _to_tensor(observation, device)


def _to_tensor(observation: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(observation)
    if tensor.is_floating_point():
        return tensor.to(device, torch.float32)
    small = tensor.dtype in (torch.uint8, torch.int8, torch.bool)
    return tensor.to(device, tensor.dtype if small else torch.int64)


def _neutral_action(space: gym.Space) -> Any:
    """The action of environments whose member has none: zero, or the nearest allowed value."""
    if isinstance(space, gym.spaces.Box):
        return np.clip(np.zeros(space.shape, space.dtype), space.low, space.high)
    return getattr(space, "start", 0)
