"""`reverie.load`: the policy of a checkpoint, played with numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np

from commands.checkpoints import load_agent, member_index
from commands.own_observations import own_observations
from commands.policy_step import PolicyStep, RunningEpisodes, by_slash
from commands.run_directory import checkpoint_of_run
from datamodules.envs.plain import leaf_values
from modules.batch import PLAIN
from modules.trust.names import trusting
from modules.trust.options import called_from_python


class LoadedPolicy:
    """The deterministic policy of a checkpoint's agent; it remembers the running episodes where the agent does.

    Attributes:
        path: path of the checkpoint.
        agent: the LightningModule, on the CPU and in evaluation mode.
        member: index of the member that plays.
        environment: spec of the environment that training evaluated in, or None; `environment.make()` makes it.
    """

    def __init__(self, path: str, member: str | None = None) -> None:
        self.path = path
        self.agent, origin = load_agent(path)
        self.environment = origin.environment
        self.member = member_index(self.agent.member_names, member)
        self._parts = origin.parts
        self._step = PolicyStep(self.agent, self.member)
        self._by_key = None if self._parts is None else PolicyStep(self.agent, self.member, self._parts)
        self._running = RunningEpisodes()

    @cached_property
    def _own(self) -> tuple[PolicyStep, gym.Space] | None:
        """The policy of observations as the environment gives them, and their space; None where it is the same."""
        try:
            own = own_observations(self.environment, self._parts or self.agent.spaces.observations_by_key())
        except ValueError:  # an environment that is not installed: observations are as the agent takes them
            return None
        return None if own is None else (PolicyStep(self.agent, self.member, self._parts, own.parts), own.space)

    def reset(self) -> None:
        """Forget the past: the next observation is the first of its episode."""
        self._running.reset()

    def predict(self, observation: Any, reward: Any = None, first: Any = None) -> np.ndarray:
        """The action for one observation, or one for each of a batch.

        Args:
            observation: observation as the environment gives it, or as that of `environment.make()` does, in the kinds
                that agents take; or a batch of either along a new first axis; a dict of such for Dict spaces. Where the
                data's parts were joined, either the joined ones or a dict that holds them.
            reward: reward that the previous action earned, one number or `[B]`. Agents that look at it (R2D2) need it;
                others ignore it.
            first: bool or `[B]`, the observation is the first of its episode. A `reset` says it of all.

        Returns:
            An action in the environment's units, or `[B, ...]` of them.

        Raises:
            ValueError: the observation has not the shape of the space, or the batch has another size than before.
        """
        joins = self._by_key is not None and isinstance(observation, dict)
        step = self._by_key if self._by_key is not None and joins else self._step
        try:
            batch, single = self._batched(by_slash(observation), step)
        except ValueError:
            if self._own is None:
                raise
            step, space = self._own
            parts = dict(leaf_values(space, observation)) if step.keys else observation
            batch, single = self._batched(parts, step)
        action = self._running.act(step, batch, first=first, reward=reward)
        return action[0] if single else action

    def _batched(self, observation: Any, step: PolicyStep) -> tuple[Any, bool]:
        """The observation with a first axis, and whether it had none."""
        parts = observation if isinstance(observation, dict) else {PLAIN: observation}
        spaces = dict(step.space.spaces) if isinstance(step.space, gym.spaces.Dict) else {PLAIN: step.space}
        if parts.keys() > spaces.keys() and (step.joined or step.own is not None):
            parts = {key: parts[key] for key in spaces}
        if parts.keys() != spaces.keys():
            raise ValueError(f"the observation has the keys {sorted(parts)}, the agent knows {sorted(spaces)}")
        arrays, ranks = {}, set()
        for key, space in spaces.items():
            assert space.shape is not None
            kind = space.dtype if isinstance(space, gym.spaces.Box) else np.int64
            arrays[key] = np.asarray(parts[key], kind)
            extra = arrays[key].ndim - len(space.shape)
            if extra not in (0, 1) or arrays[key].shape[extra:] != space.shape:
                raise ValueError(f"{key} has the shape {arrays[key].shape}, the space {space.shape}, or [B] before it")
            ranks.add(extra)
        if len(ranks) > 1:
            raise ValueError("some parts of the observation are batches and some are not")
        single = ranks == {0}
        if single:
            arrays = {key: value[None] for key, value in arrays.items()}
        return (arrays if isinstance(observation, dict) else arrays[PLAIN]), single


def load(
    ckpt_path: str,
    member: str | None = None,
    *,
    config: str | None = None,
    run_dir: str | None = None,
    trust: Sequence[str] = (),
) -> LoadedPolicy:
    """The policy that `reverie.load` returns."""
    with trusting(trust), called_from_python():
        return LoadedPolicy(str(checkpoint_of_run(str(ckpt_path), config, run_dir)), member)
