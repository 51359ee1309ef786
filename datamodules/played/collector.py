"""Rows of experience from parallel environments: a thin loop over Gymnasium's vector environments."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from tensordict import TensorDict
from torch import Tensor

from datamodules.envs.contract import check_finite
from datamodules.envs.episode_infos import Numbers, vector_numbers
from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.parallel import OwnForm, protected
from datamodules.envs.plain import plain_space
from datamodules.envs.plain_actions import plain_action_space
from datamodules.envs.restarting import RESTARTED, Protection
from datamodules.envs.stepping import Row, RowStream
from datamodules.played.episode_statistics import EpisodeStatistics
from datamodules.played.policies import Observation, Policy
from datamodules.replay.memory_mapped_rows import Field
from datamodules.replay.streams import OBSERVATION
from modules.arguments.checks import check_ranges
from modules.batch import PLAIN, brief, by_key
from modules.functional.recurrent_state import map_leaves

Vectorization = Literal["sync", "async", "vector_entry_point"]

MOST_ENVIRONMENTS = 10_000
"""Most environments that are made one by one, which takes a while for so many."""

OWN_WRAPPER = "--data.wrappers '[{class_path: my_module.MyWrapper}]'"


def check_count(environments: int, vectorization: Vectorization) -> None:
    """Refuse more environments than could be made; an environment's own vector form may hold any number.

    Raises:
        ValueError: there are too many.
    """
    if vectorization != "vector_entry_point":
        check_ranges(("environments", environments, 1, MOST_ENVIRONMENTS))


def field_of(space: gym.Space, name: str) -> Field:
    """Shape and dtype in which values of a space are stored and given to agents: floats have 32 bits.

    Args:
        space: space of one value.
        name: name of the value, for errors.

    Raises:
        ValueError: the space is of another kind than Box, Discrete, MultiDiscrete and MultiBinary.
    """
    kinds = (gym.spaces.Box, gym.spaces.Discrete, gym.spaces.MultiDiscrete, gym.spaces.MultiBinary)
    if not isinstance(space, kinds) or space.dtype is None or space.shape is None:
        raise ValueError(
            f"{name} is of the space {brief(space)}, which no agent takes: name a wrapper of your own that makes a Box "
            f"or numbers of it, {OWN_WRAPPER}"
        )
    if np.issubdtype(space.dtype, np.floating):
        return Field(space.shape, torch.float32)
    same = {np.dtype(np.uint8): torch.uint8, np.dtype(np.int8): torch.int8, np.dtype(bool): torch.bool}
    return Field(space.shape, same.get(np.dtype(space.dtype), torch.int64))


def observation_fields(space: gym.Space) -> Field | dict[str, Field]:
    """Shape and dtype of a stored observation, or of each key of a Dict.

    Args:
        space: observation space of one environment, made plain by `datamodules.envs.plain`.

    Raises:
        ValueError: a part is of a space that cannot be stored.
    """
    if isinstance(space, gym.spaces.Dict):
        kept = [key for key, part in space.items() if isinstance(part, gym.spaces.Box)]
        for key, part in space.items():
            if key not in kept:
                listed = ", ".join(json.dumps(key) for key in kept)
                others = f": --data.observation_keys '[{listed}]'" if kept else "; no other part is left"
                raise ValueError(f"observation {key!r}, {brief(part)}, cannot be learned from; leave it out{others}")
        return {key: field_of(part, f"observation {key!r}") for key, part in space.items()}
    if isinstance(space, gym.spaces.Box):
        return field_of(space, "the observation")
    wrapper = "a wrapper of your own that makes a Box of it, " + OWN_WRAPPER
    if isinstance(space, gym.spaces.Text):
        wrapper = "--data.wrappers '[{class_path: gymnasium.wrappers.FlattenObservation}]', which counts characters"
    raise ValueError(f"the observation is of the space {brief(space)}, which cannot be learned from; give {wrapper}")


def make_environments(
    spec: EnvironmentSpec, count: int, *, vectorization: Vectorization, seed: int, protection: Protection
) -> VectorEnv:
    """`count` environments that reset in the step after an end, as `RowStream` needs them.

    Args:
        spec: specification of one environment.
        count: number of environments `N`.
        vectorization: `sync` steps them in this process, `async` each in a process of its own, `vector_entry_point`
            takes the environment's own vector form, whose failures are not forgiven.
        seed: environment `i` starts with `seed + i`.
        protection: protection of each environment.

    Raises:
        ValueError: the environment cannot be made like this.
    """
    if vectorization != "vector_entry_point":
        return protected(
            spec,
            count,
            seed=seed,
            autoreset=AutoresetMode.NEXT_STEP,
            protection=protection,
            asynchronous=vectorization == "async",
            copy=False,
        )
    if spec.wrappers:
        raise ValueError(
            "vectorization: vector_entry_point has no wrappers around single environments; use sync or async"
        )
    try:
        env = gym.make_vec(spec.id, count, vectorization_mode="vector_entry_point", **spec.arguments)
    except (gym.error.Error, TypeError) as error:
        raise ValueError(f"{spec.id!r} has no vector form of its own ({error}); use sync or async") from error

    # Rows need plain spaces, and resets in the step after an end; neither can be added to a vector form from outside.
    observation, action = env.single_observation_space, env.single_action_space
    if plain_space(observation)[1] is not None or plain_action_space(action) is not None:
        env.close()
        raise ValueError(
            f"the vector form of {spec.id!r} has observations {brief(observation)} and actions {brief(action)}, which "
            "only environments that are made one by one can be given a plain form of; use vectorization: sync or async"
        )
    mode = env.metadata.get("autoreset_mode")
    if mode != AutoresetMode.NEXT_STEP:
        raise ValueError(f"the vector form of {spec.id!r} resets in the mode {mode}, not NEXT_STEP; use sync or async")
    env.reset(seed=seed)
    return OwnForm(env, spec.id)


@dataclass
class Setting:
    """Environments, and how they are collected from.

    Attributes:
        spec: specification of one environment.
        environments: number of environments `N`.
        vectorization: see `make_environments`.
        protection: protection of each environment.
        prefill: number of steps of the random policy.
        refresh_updates: updates after which an acting copy of the agent gets the weights of the learning one.
        seed: seed of environments and actions.
    """

    spec: EnvironmentSpec
    environments: int
    vectorization: Vectorization
    protection: Protection
    prefill: int
    refresh_updates: int
    seed: int

    def seed_at(self, steps: int) -> int:
        """Seed of a run that begins, or that continues with new episodes after `steps` environment steps."""
        return int(np.random.SeedSequence([self.seed, steps]).generate_state(1)[0] >> 1) if steps else self.seed

    def make(self, seed: int) -> VectorEnv:
        """The environments."""
        return make_environments(
            self.spec, self.environments, vectorization=self.vectorization, seed=seed, protection=self.protection
        )


class Collector(EpisodeStatistics):
    """Steps parallel environments and returns their experience, one row per environment and vector step.

    A row holds an observation, and the action and reward that led to it, see `modules.batch.SequenceBatch`. The last
    observation of an episode is a row with its flag, and the next row is the reset: reward 0, action 0, no step. Rows
    of a policy whose state is stored hold it as `stored`.

    Args:
        env: environments that reset in the step after an end.
        name: name of the environment, for errors.
        seed: seed with which the environments are reset.
        infos: names of further numbers in infos that are counted, for an environment's own vector form; environments in
            `Restarting` have them from their protection.

    Attributes:
        numbers_of_rows: numbers of the episodes that ended in the latest rows, see `EpisodeStatistics.count`.
        entered: `[1]` moment, of `time.monotonic`, at which the step under way began; 0 between steps.
    """

    def __init__(self, env: VectorEnv, name: str, seed: int, infos: Sequence[str] = ()) -> None:
        count = env.num_envs
        super().__init__(count)
        self.env = env
        self.name = name
        self.seed = seed
        self._infos = infos
        self.entered = np.zeros(1)
        fields = observation_fields(env.single_observation_space)
        self._observed = {PLAIN: fields} if isinstance(fields, Field) else fields
        self._plain = isinstance(fields, Field)
        self._action = field_of(env.single_action_space, "the action")
        self._observation: Observation | None = None  # of the newest row
        self._rows = RowStream(env)
        self._first = np.ones(count, bool)  # of the newest row
        self._reward = np.zeros(count, np.float32)  # of the newest row

    def collect(self, count: int, policy: Policy) -> TensorDict:
        """`[count, N]` further rows.

        Args:
            count: number of rows of each stream.
            policy: policy that chooses the actions.

        Raises:
            ValueError: an observation or a reward is not finite, or an environment failed more often than is forgiven.
        """
        began = time.perf_counter()
        environments = self.env.num_envs
        observed = {key: _empty(field, count, environments) for key, field in self._observed.items()}
        tensors = {key: torch.from_numpy(values) for key, values in observed.items()}
        action = _empty(self._action, count, environments)
        reward = np.zeros((count, environments), np.float32)
        is_first, terminated, truncated = np.zeros((3, count, environments), bool)
        stored = np.empty((count, environments, policy.stored_width), np.float32)
        self.numbers_of_rows: dict[tuple[int, int], Numbers] = {}
        for t in range(count):
            # One step of all environments, or their first reset.
            if self._observation is None:
                row = self._rows.reset(self.seed)
            else:
                action[t] = sent = policy(self._observation, self._first, self._reward)
                row = self._step(sent)
            is_first[t], reward[t] = row.is_first, row.reward
            terminated[t], truncated[t] = row.terminated, row.truncated
            self._first = row.is_first
            self._reward = reward[t]
            check_finite(self.name, "reward", reward[t : t + 1])  # before it reaches a policy
            if row.info:
                self._read_info(t, row)
            if policy.stored_width:
                stored[t] = policy.stored_state(self._first)

            # The policy acts on the stored row, in the types that are stored.
            if self._plain:
                observed[PLAIN][t] = row.observation
                self._observation = tensors[PLAIN][t]
            else:
                for key, values in observed.items():
                    values[t] = row.observation[key]
                self._observation = {key: values[t] for key, values in tensors.items()}

        # What is the same for all rows costs less at once.
        action[is_first] = 0
        for key, values in observed.items():
            check_finite(self.name, "observation" if self._plain else f"observation {key!r}", values)
        self.count(reward, is_first, terminated | truncated, time.perf_counter() - began, self.numbers_of_rows)
        rows = {"previous_action": action, "reward": reward, "is_first": is_first}
        rows |= {"terminated": terminated, "truncated": truncated} | ({"stored": stored} if policy.stored_width else {})
        observation = tensors[PLAIN] if self._plain else TensorDict(tensors, [count, environments])
        fields = {name: torch.from_numpy(values) for name, values in rows.items()}
        return TensorDict({OBSERVATION: observation, **fields}, [count, environments])

    def _step(self, action: np.ndarray) -> Row:
        self.entered[0] = time.monotonic()
        row = self._rows.step(action)
        self.entered[0] = 0.0
        return row

    def _read_info(self, t: int, row: Row) -> None:
        """Warn of environments that were made anew, and keep the numbers of the episodes that end in row `t`."""
        for index, text in enumerate(row.info.get(RESTARTED, ())):
            if text:
                self.restarts += 1
                which = f"environment {index} of {self.name!r}"
                warnings.warn(f"{which} failed and was made anew: {text}", stacklevel=3)
        numbers = vector_numbers(row.info, self._rows.ended, self._infos)
        self.numbers_of_rows |= {(t, index): found for index, found in numbers.items()}

    def close(self) -> None:
        """Close the environments."""
        self.env.close()

    # ----------------------------------------------------------------------------------------------------- exact resume
    def state_dict(self) -> dict[str, Any]:
        """Counters, and the state of the environments or the reason why it cannot be captured, for a checkpoint."""
        taken: Any = "its own vector form cannot be captured"
        if isinstance(self.env, SyncVectorEnv | AsyncVectorEnv):
            taken = list(self.env.call("take_snapshot"))
            taken = next((reason for reason in taken if isinstance(reason, str)), taken)
        observation = {} if self._observation is None else by_key(self._observation)
        arrays = {"first": self._first, "ended": self._rows.ended, "reward": self._reward}
        arrays |= {"returns": self._returns, "lengths": self._lengths}
        return {
            "environments": map_leaves(lambda v: torch.from_numpy(v) if isinstance(v, np.ndarray) else v, taken),
            "observation": {key: value.clone() for key, value in observation.items()},
            "arrays": {name: torch.from_numpy(values.copy()) for name, values in arrays.items()},
            **super().state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], *, continue_episodes: bool = True) -> str | None:
        """Inverse of `state_dict`.

        Args:
            state: state of a collector of as many environments of the same kind.
            continue_episodes: whether to go on within the episodes; if not, new ones start.

        Returns:
            None if the episodes continue exactly, else why they do not: then new ones start.
        """
        super().load_state_dict(state)
        why = self._restore(state["environments"]) if continue_episodes else "the replay is another one"
        if why is not None:
            self._observation = None
            self.seed = int(np.random.SeedSequence([self.seed, self.steps]).generate_state(1)[0] >> 1)
            return why
        arrays = {name: values.numpy().copy() for name, values in state["arrays"].items()}
        self._first = arrays["first"]
        self._rows.ended = arrays["ended"]
        self._reward = arrays["reward"]
        self._returns = arrays["returns"]
        self._lengths = arrays["lengths"]
        observation = {key: value.clone() for key, value in state["observation"].items()}
        self._observation = observation.get(PLAIN) if self._plain else observation or None
        return None

    def _restore(self, environments: Any) -> str | None:
        if isinstance(environments, str):
            return environments
        if not isinstance(self.env, SyncVectorEnv | AsyncVectorEnv):
            return "they were captured one by one"
        taken = map_leaves(lambda v: v.numpy() if isinstance(v, Tensor) else v, environments)
        self.env.set_attr("snapshot", taken)
        # This step only repeats the flags, so that the vector environment knows what to reset.
        self.env.step(self.env.action_space.sample())
        return next((reason for reason in self.env.get_attr("snapshot") if reason is not None), None)


def _empty(field: Field, rows: int, environments: int) -> np.ndarray:
    return torch.empty((rows, environments, *field.shape), dtype=field.dtype).numpy()
