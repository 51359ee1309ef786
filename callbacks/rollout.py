"""Episodes of a policy in a Gymnasium environment: true returns, fixed seeds, all members in one pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor
from torch.utils._pytree import tree_map

from callbacks.randomness import isolated_randomness
from datamodules.envs.make import make_vector_env
from modules.algorithms.agent import Agent


class Rollouts(NamedTuple):
    """Finished episodes of every member, in the order of their seeds.

    Attributes:
        returns: `[M, E]` undiscounted sums of the environment's own rewards; NaN for a member that is not alive.
        lengths: `[M, E]` steps; 0 for a member that is not alive.
    """

    returns: np.ndarray
    lengths: np.ndarray


def evaluate_policy(
    agent: Agent,
    environment: str | SyncVectorEnv,
    episodes: int,
    seed: int,
    *,
    parallel: int = 10,
    max_episode_steps: int = 100_000,
    **environment_arguments: Any,
) -> Rollouts:
    """Play `episodes` deterministic episodes per member.

    Episode `e` of every member starts from `reset(seed=seed + e)`, whichever copy of the environment plays it, so the
    result does not depend on `parallel` (up to the last bit of matrix products of another batch size). The global
    random generators are left untouched.

    Args:
        agent: plays with `act(explore=False)`; its training mode is restored afterwards.
        environment: registered id, or a vector environment without autoreset and with `M * P` copies, which is kept
            open.
        episodes: `E`, per member.
        seed: of the first episode.
        parallel: copies of the environment per member, when an id is given.
        max_episode_steps: an episode that is longer has no end.
        **environment_arguments: of the environment, when an id is given.

    Raises:
        ValueError: `episodes` is not positive, the environment cannot be made, an episode does not end, or the vector
            environment resets by itself or does not divide among the members.
    """
    if episodes < 1:
        raise ValueError(f"an evaluation needs at least one episode, got episodes={episodes}")
    if isinstance(environment, str):
        copies = len(agent.member_names) * min(parallel, episodes)
        made = make_vector_env(
            environment, copies, seed=seed, autoreset=AutoresetMode.DISABLED, **environment_arguments
        )
        try:
            return evaluate_policy(agent, made, episodes, seed, max_episode_steps=max_episode_steps)
        finally:
            made.close()
    if environment.metadata["autoreset_mode"] is not AutoresetMode.DISABLED:
        raise ValueError("evaluation resets by itself: make the vector environment with AutoresetMode.DISABLED")
    if environment.num_envs % len(agent.member_names):
        raise ValueError(f"{environment.num_envs} copies do not divide among {len(agent.member_names)} members")
    was_training = agent.training
    agent.eval()
    try:
        with isolated_randomness(seed, agent.device), torch.no_grad():
            return _play(agent, environment, episodes, seed, max_episode_steps)
    finally:
        agent.train(was_training)


def _play(agent: Agent, environment: SyncVectorEnv, episodes: int, seed: int, limit: int) -> Rollouts:
    members, copies = len(agent.member_names), environment.num_envs
    member = np.repeat(np.arange(members), copies // members)
    alive = np.array(agent.alive or [True] * members)
    returns, lengths = np.full((members, episodes), np.nan), np.zeros((members, episodes), dtype=np.int64)
    episode = np.tile(np.arange(copies // members), members)
    following = np.full(members, copies // members)  # next episode of each member that no copy plays yet
    totals, steps = np.zeros(copies), np.zeros(copies, dtype=np.int64)
    neutral = _neutral_action(environment.single_action_space)

    observation, _ = environment.reset(seed=[seed + int(e) for e in episode])
    state = agent.initial_state(copies)
    while np.any((episode < episodes) & alive[member]):
        action, state = agent.act(_to_tensor(observation, agent.device), state, explore=False)
        sent = np.array(action.cpu())  # a copy: rows of dead members are overwritten
        finite = np.isfinite(sent.reshape(copies, -1)).all(axis=1)
        alive = alive & (np.bincount(member, ~finite, members) == 0)
        sent[~alive[member]] = neutral
        observation, reward, terminated, truncated, _ = environment.step(sent)
        totals += reward
        steps += 1
        ended = terminated | truncated
        if steps.max() > limit:
            raise ValueError(f"an episode is longer than {limit} steps: give the environment a time limit")
        if not ended.any():
            continue
        for copy in np.flatnonzero(ended):
            if episode[copy] < episodes:
                returns[member[copy], episode[copy]] = totals[copy]
                lengths[member[copy], episode[copy]] = steps[copy]
            episode[copy] = following[member[copy]]
            following[member[copy]] += 1
        totals[ended], steps[ended] = 0.0, 0
        observation, _ = environment.reset(seed=[seed + int(e) for e in episode], options={"reset_mask": ended})
        state = _restart(state, agent.initial_state(copies), torch.from_numpy(ended).to(agent.device))
    returns[~alive], lengths[~alive] = np.nan, 0
    return Rollouts(returns, lengths)


def _to_tensor(observation: np.ndarray, device: torch.device) -> Tensor:
    """Floating observations as float32; images keep their bytes."""
    tensor = torch.from_numpy(observation)
    return tensor.to(device, torch.float32 if tensor.is_floating_point() else tensor.dtype)


def _neutral_action(space: gym.Space) -> Any:
    """The action of copies whose member has none: zero, or the nearest allowed value."""
    if isinstance(space, gym.spaces.Box):
        return np.clip(np.zeros(space.shape, space.dtype), space.low, space.high)
    return getattr(space, "start", 0)


def _restart(state: Any, fresh: Any, ended: Tensor) -> Any:
    """Fresh recurrent state for the rows `[B]` whose episode has ended; None stays None."""

    def choose(old: Tensor, new: Tensor) -> Tensor:
        return torch.where(ended.view(-1, *[1] * (old.ndim - 1)), new, old)

    return tree_map(lambda old, new: choose(old, new) if isinstance(old, Tensor) else old, state, fresh)
