"""Episodes of a policy in a Gymnasium environment: true returns, fixed seeds, all members in one pass."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from callbacks.randomness import isolated_randomness
from datamodules.envs.make import EnvironmentSpec
from modules.algorithms.agent import Agent
from modules.functional.recurrent_state import restart


class Rollouts(NamedTuple):
    """Finished episodes of every member, in the order of their seeds.

    Attributes:
        returns: `[M, E]` undiscounted sums of the environment's own rewards; NaN for a member that is not alive.
        lengths: `[M, E]` steps; 0 for a member that is not alive.
    """

    returns: np.ndarray
    lengths: np.ndarray


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
    max_episode_steps: int = 100_000,
) -> Rollouts:
    """Play `episodes` deterministic episodes per member.

    Episode `e` of every member starts from `reset(seed=seed + e)`, whichever copy of the environment plays it, so the
    result does not depend on `parallel` (up to the last bit of matrix products of another batch size). The global
    random generators are left untouched.

    Args:
        agent: plays with `act(explore=False)`; its training mode is restored afterwards.
        environment: registered id, what makes the environment, or a vector environment without autoreset and with
            `M * P` copies, which is kept open.
        episodes: `E`, per member.
        seed: of the first episode.
        parallel: copies of the environment per member, where they are made here.
        max_episode_steps: an episode that is longer has no end.

    Raises:
        ValueError: `episodes` is not positive, the environment cannot be made, an episode does not end, or the vector
            environment resets by itself or does not divide among the members.
    """
    if episodes < 1:
        raise ValueError(f"an evaluation needs at least one episode, got episodes={episodes}")
    if isinstance(environment, str):
        environment = EnvironmentSpec(environment)
    if isinstance(environment, EnvironmentSpec):
        copies = len(agent.member_names) * min(parallel, episodes)
        made = environment.make_vector(copies, seed=seed, autoreset=AutoresetMode.DISABLED)
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


def evaluate_random(environment: VectorEnv, episodes: int, seed: int, *, max_episode_steps: int = 100_000) -> Rollouts:
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


def _play(player: Player, environment: VectorEnv, episodes: int, seed: int, limit: int) -> Rollouts:
    members, copies = len(player.member_names), environment.num_envs
    member = np.repeat(np.arange(members), copies // members)
    alive = np.array(player.alive or [True] * members)
    returns, lengths = np.full((members, episodes), np.nan), np.zeros((members, episodes), dtype=np.int64)
    episode = np.tile(np.arange(copies // members), members)
    following = np.full(members, copies // members)  # next episode of each member that no copy plays yet
    totals, steps = np.zeros(copies), np.zeros(copies, dtype=np.int64)
    neutral = _neutral_action(environment.single_action_space)

    seeds: Any = [seed + int(e) for e in episode]  # one per copy, which the declared type does not know of
    observation, _ = environment.reset(seed=seeds)
    state = player.initial_state(copies)
    while np.any((episode < episodes) & alive[member]):
        action, state = player.act(to_tensors(observation, player.device), state, explore=False)
        sent = np.array(action.cpu())  # a copy: rows of dead members are overwritten
        finite = np.isfinite(sent.reshape(copies, -1)).all(axis=1)
        alive = alive & (np.bincount(member, ~finite, members) == 0)
        sent[~alive[member]] = neutral
        observation, reward, terminated, truncated, _ = environment.step(sent)
        state = player.rewarded(state, torch.from_numpy(reward).to(player.device, torch.float32))
        totals += reward
        steps += 1
        ended = terminated | truncated
        if steps.max() > limit:
            raise ValueError(f"an episode is longer than {limit} steps: give the environment a time limit")
        if not ended.any():
            continue
        for row in np.flatnonzero(ended):
            if episode[row] < episodes:
                returns[member[row], episode[row]] = totals[row]
                lengths[member[row], episode[row]] = steps[row]
            episode[row] = following[member[row]]
            following[member[row]] += 1
        totals[ended], steps[ended] = 0.0, 0
        seeds = [seed + int(e) for e in episode]
        observation, _ = environment.reset(seed=seeds, options={"reset_mask": ended})
        state = restart(state, player.initial_state(copies), torch.from_numpy(ended).to(player.device))
    returns[~alive], lengths[~alive] = np.nan, 0
    return Rollouts(returns, lengths)


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
