"""Episodes of a policy in a Gymnasium environment: true returns, fixed seeds, all members in one pass."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from datamodules.envs.copies import protected
from datamodules.envs.episode_checks import MAX_EPISODE_STEPS, check_step, failed
from datamodules.envs.episode_infos import Numbers, vector_numbers
from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.restarting import Protection
from modules.agent.agent import Agent
from modules.agent.random_state import isolated_randomness
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
        numbers: by member, what the environment said at the end of each episode, such as its success; empty where it
            said nothing, and for a member that is not alive.
    """

    returns: np.ndarray
    lengths: np.ndarray
    numbers: list[list[Numbers]]


class Player(Protocol):
    """What plays episodes: an agent, or something that needs no training."""

    @property
    def alive(self) -> list[bool]: ...
    @property
    def member_names(self) -> tuple[str, ...]: ...
    @property
    def device(self) -> torch.device: ...
    def initial_state(self, batch: int) -> Any: ...
    def act(self, observation: Any, state: Any = None, *, explore: bool) -> tuple[Tensor, Any]: ...
    def rewarded(self, state: Any, reward: Tensor) -> Any: ...


class RandomPlayer:
    """Samples every action from the action space."""

    device = torch.device("cpu")

    def __init__(self, space: gym.Space, seed: int) -> None:
        self.alive = [True]
        self.member_names = ("",)
        self._space = copy.deepcopy(space)  # with a generator of its own
        self._space.seed(seed)

    def initial_state(self, batch: int) -> range:
        return range(batch)

    def act(self, observation: Any, state: Any = None, *, explore: bool) -> tuple[Tensor, Any]:
        return torch.from_numpy(np.stack([self._space.sample() for _ in state])), state

    def rewarded(self, state: Any, reward: Tensor) -> Any:
        return state


def evaluate_policy(
    agent: Agent,
    environment: str | EnvironmentSpec | VectorEnv,
    episodes: int,
    seed: int,
    *,
    parallel: int = 10,
    max_episode_steps: int = MAX_EPISODE_STEPS,
    protection: Protection = EVALUATION,
) -> Rollouts:
    """Play `episodes` deterministic episodes per member.

    Episode `e` of every member starts from `reset(seed=seed + e)`, whichever copy of the environment plays it, so the
    result does not depend on `parallel` (up to the last bit of matrix products of another batch size). The global
    random generators are left untouched.

    An episode in which the environment fails is not counted: it is played again from its beginning, with a warning, in
    an environment that is made anew. What fails more often than is forgiven is an error, as is a number that is none.

    Args:
        agent: plays with `act(explore=False)`; its training mode is restored afterwards.
        environment: registered id, what makes the environment, or `evaluation_copies` of `M * P` environments, which
            are kept open.
        episodes: `E`, per member.
        seed: of the first episode.
        parallel: copies of the environment per member, where they are made here.
        max_episode_steps: an episode that is longer has no end.
        protection: of environments that are made here.

    Raises:
        ValueError: `episodes` is not positive, the environment cannot be made, fails for good or returns what it must
            not, an episode does not end, or the vector environment resets by itself or does not divide among members.
    """
    if episodes < 1:
        raise ValueError(f"an evaluation needs at least one episode, got episodes={episodes}")
    if isinstance(environment, str):
        environment = EnvironmentSpec(environment)
    if isinstance(environment, EnvironmentSpec):
        copies = len(agent.member_names) * min(parallel, episodes)
        made = evaluation_copies(environment, copies, seed, protection)
        try:
            return evaluate_policy(agent, made, episodes, seed, max_episode_steps=max_episode_steps)
        finally:
            made.close()
    _check(environment, len(agent.member_names))
    was_training = agent.training
    agent.eval()
    try:
        with isolated_randomness(seed, agent.device), torch.no_grad():
            return _play(agent, environment, episodes, seed, max_episode_steps)
    finally:
        agent.train(was_training)


def evaluation_copies(spec: EnvironmentSpec, count: int, seed: int, protection: Protection = EVALUATION) -> VectorEnv:
    """`count` copies in this process that reset when they are told to, each protected.

    Raises:
        ValueError: the environment cannot be made, or fails at its first reset.
    """
    made = protected(spec, count, seed=seed, autoreset=AutoresetMode.DISABLED, protection=protection)
    made.metadata[NAME] = spec.id
    return made


def warn_of_silence(rollouts: Rollouts, names: Sequence[str]) -> None:
    """Say which numbers were asked for that no episode told."""
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
    _check(environment, 1)
    player = RandomPlayer(environment.single_action_space, seed)
    with isolated_randomness(seed, player.device):
        return _play(player, environment, episodes, seed, max_episode_steps)


def _check(environment: VectorEnv, members: int) -> None:
    if environment.metadata["autoreset_mode"] is not AutoresetMode.DISABLED:
        raise ValueError("evaluation resets by itself: make the vector environment with AutoresetMode.DISABLED")
    if environment.num_envs % members:
        raise ValueError(f"{environment.num_envs} copies do not divide among {members} members")


class _Table:
    """Which copy plays which episode of which member, and what came of it.

    Args:
        player: what plays.
        environment: its copies are dealt evenly to the members.
        episodes: of each member.
        seed: of the first episode.
    """

    def __init__(self, player: Player, environment: VectorEnv, episodes: int, seed: int) -> None:
        members, self.copies = len(player.member_names), environment.num_envs
        self.name = environment.metadata.get(NAME, "of this evaluation")
        self.episodes, self.seed = episodes, seed
        self.member = np.repeat(np.arange(members), self.copies // members)
        self.alive = np.array(player.alive or [True] * members)
        self.returns = np.full((members, episodes), np.nan)
        self.lengths = np.zeros((members, episodes), dtype=np.int64)
        self.numbers: list[list[Numbers]] = [[{} for _ in range(episodes)] for _ in range(members)]
        self.episode = np.tile(np.arange(self.copies // members), members)
        self.following = np.full(members, self.copies // members)  # next episode of each that no copy plays yet
        self.totals, self.steps = np.zeros(self.copies), np.zeros(self.copies, dtype=np.int64)

    @property
    def needed(self) -> np.ndarray:
        """`[copies]` bool, what the copy plays is counted."""
        return (self.episode < self.episodes) & self.alive[self.member]

    @property
    def seeds(self) -> Any:
        """Of the episodes that the copies play; one per copy, which Gymnasium's declared type does not know of."""
        return [self.seed + int(e) for e in self.episode]

    def add(self, observation: Any, reward: np.ndarray, limit: int) -> None:
        """Count a step.

        Raises:
            ValueError: something is NaN or infinite, or an episode has no end.
        """
        self.totals += reward
        self.steps += 1
        check_step(self.name, observation, reward, self.steps, self.needed, self.seeds, limit, OPTION)

    def end(self, ended: np.ndarray, info: Mapping[str, Any]) -> None:
        """Write down the episodes that have ended, and choose the next ones; one that failed is played again."""
        again, told = failed(self.name, info, self.copies), vector_numbers(info, ended)
        for row in np.flatnonzero(ended & ~again).tolist():
            member, episode = self.member[row], self.episode[row]
            if episode < self.episodes:
                self.returns[member, episode], self.lengths[member, episode] = self.totals[row], self.steps[row]
                self.numbers[member][episode] = told.get(row, {})
            self.episode[row] = self.following[member]
            self.following[member] += 1
        self.totals[ended], self.steps[ended] = 0.0, 0

    def rollouts(self) -> Rollouts:
        """All that was played."""
        dead = ~self.alive
        self.returns[dead], self.lengths[dead] = np.nan, 0
        numbers = [mine if lives else [] for mine, lives in zip(self.numbers, self.alive, strict=True)]
        return Rollouts(self.returns, self.lengths, numbers)


def _play(player: Player, environment: VectorEnv, episodes: int, seed: int, limit: int) -> Rollouts:
    table = _Table(player, environment, episodes, seed)
    copies, member = table.copies, table.member
    neutral = _neutral_action(environment.single_action_space)
    observation, _ = environment.reset(seed=table.seeds)
    state = player.initial_state(copies)
    while table.needed.any():
        action, state = player.act(to_tensors(observation, player.device), state, explore=False)
        sent = np.array(action.cpu())  # a copy: rows of dead members are overwritten
        finite = np.isfinite(sent.reshape(copies, -1)).all(axis=1)
        table.alive &= np.bincount(member, ~finite, len(table.alive)) == 0
        sent[~table.alive[member]] = neutral
        observation, reward, terminated, truncated, info = environment.step(sent)
        state = player.rewarded(state, torch.from_numpy(reward).to(player.device, torch.float32))
        table.add(observation, reward, limit)
        ended = terminated | truncated
        if not ended.any():
            continue
        table.end(ended, info)
        observation, info = environment.reset(seed=table.seeds, options={"reset_mask": ended})
        failed(table.name, info, copies)  # a reset is repeated by itself
        state = restart(state, player.initial_state(copies), torch.from_numpy(ended).to(player.device))
    return table.rollouts()


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
    """The action of copies whose member has none: zero, or the nearest allowed value."""
    if isinstance(space, gym.spaces.Box):
        return np.clip(np.zeros(space.shape, space.dtype), space.low, space.high)
    return getattr(space, "start", 0)
