"""`reverie.load`: the policy of a checkpoint or a published model, played with numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from callbacks.mlflow.models import MODELS
from commands.checkpoints import load_agent, member_index
from commands.model_folder import ABOUT, WEIGHTS
from commands.own_observations import own_observations
from commands.policy_step import PolicyStep, RunningEpisodes, by_slash
from commands.published_policy import PublishedPolicy, fetched, read_about
from commands.run_directory import NAMES, checkpoint_of_run
from datamodules.envs.plain import leaf_values
from modules.batch import PLAIN
from modules.trust.names import short, trusting
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
        step, batch, single = self._asked(observation)
        action = self._running.act(step, batch, first=first, reward=reward)
        return action[0] if single else action

    def act(
        self, observation: Any, state: dict[str, np.ndarray] | None = None, reward: Any = None
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The action for one observation, or one for each of a batch, and the next state; nothing is remembered here.

        Args:
            observation: as `predict` takes it.
            state: the state that the previous call gave; None where episodes begin. It is `{}` without a memory.
            reward: reward that the previous action earned, one number or `[B]`. Agents that look at it (R2D2) need it;
                others ignore it.

        Returns:
            An action in the environment's units, or `[B, ...]` of them, and the state for the next call.

        Raises:
            ValueError: the observation has not the shape of the space, or the state is not of this policy.
        """
        step, batch, single = self._asked(observation)
        if state and state.keys() != set(step.states):
            raise ValueError(f"the state has the parts {sorted(state)}, the policy takes {step.states}")
        episodes = RunningEpisodes({} if state is None else state)
        action = episodes.act(step, batch, reward=reward)
        return (action[0] if single else action), episodes.state

    def _asked(self, observation: Any) -> tuple[PolicyStep, Any, bool]:
        """The form of the policy that takes an observation, the observation with a first axis, and whether it had none.

        Raises:
            ValueError: no form takes it.
        """
        joins = self._by_key is not None and isinstance(observation, dict)
        step = self._by_key if self._by_key is not None and joins else self._step
        try:
            return step, *self._batched(by_slash(observation), step)
        except ValueError:
            if self._own is None:
                raise
            step, space = self._own
            parts = dict(leaf_values(space, observation)) if step.keys else observation
            return step, *self._batched(parts, step)

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
    tracking_uri: str | None = None,
) -> LoadedPolicy | PublishedPolicy:
    """The policy that `reverie.load` returns."""
    with trusting(trust), called_from_python():
        if not ckpt_path.startswith(MODELS):
            if tracking_uri is not None:
                raise ValueError(f"tracking_uri says where a model of MLflow is, {ckpt_path} is none: leave it out")
            if ckpt_path in NAMES or not Path(ckpt_path).is_dir():
                return LoadedPolicy(str(checkpoint_of_run(ckpt_path, config, run_dir)), member)
        if config is not None or run_dir is not None:
            raise ValueError(
                f"config and run_dir say whose `last` or `best` is meant; {ckpt_path} says it: leave them out"
            )
        if ckpt_path.startswith(MODELS):
            with fetched(ckpt_path, tracking_uri) as folder:
                policy = _of_folder(folder, member)
            policy.path = ckpt_path
            return policy
        return _of_folder(Path(ckpt_path), member)


def _of_folder(folder: Path, member: str | None) -> LoadedPolicy | PublishedPolicy:
    """The policy in a model's folder, or the best one of a run's folder, else its last."""
    if not (folder / ABOUT).is_file():
        found = [path for name in ("best", "last") if (path := folder / "checkpoints" / NAMES[name]).is_file()]
        if not found:
            raise ValueError(
                f"{folder} holds no run with checkpoints and no published model: "
                "give the folder of one run, or a checkpoint file"
            )
        return LoadedPolicy(str(found[0]), member)
    about = read_about(folder / ABOUT)
    if member is not None and member != about["member"]:
        raise ValueError(f"{folder} holds the policy of member {short(about['member']) or '(the only one)'} alone")
    if about["policy"] == WEIGHTS:
        return LoadedPolicy(str(folder / WEIGHTS), about["member"] or None)
    return PublishedPolicy(folder)
