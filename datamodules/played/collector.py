"""Rows of experience from parallel environments: a thin loop over Gymnasium's vector environments."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv
from tensordict import TensorDict
from torch import Tensor

from datamodules.envs.contract import check_finite
from datamodules.envs.episode_infos import Numbers, vector_numbers
from datamodules.envs.parallel import OwnForm
from datamodules.envs.restarting import RESTARTED
from datamodules.envs.stepping import Row, RowStream
from datamodules.played.episode_statistics import EpisodeStatistics
from datamodules.played.fields import field_of, observation_fields
from datamodules.played.policies import Observation, Policy, RandomPolicy
from datamodules.replay.memory_mapped_rows import Field
from datamodules.replay.streams import OBSERVATION
from modules.batch import PLAIN, by_key
from modules.functional.recurrent_state import map_leaves


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
        taken: Any = "its vector form cannot be captured"
        if isinstance(self.env, OwnForm):
            taken = self.env.take_snapshot()
        elif isinstance(self.env, SyncVectorEnv | AsyncVectorEnv):
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
        taken = map_leaves(lambda v: v.numpy() if isinstance(v, Tensor) else v, environments)
        if isinstance(self.env, OwnForm) and isinstance(taken, Mapping):
            return self.env.restore_snapshot(taken)
        if not isinstance(self.env, SyncVectorEnv | AsyncVectorEnv) or isinstance(taken, Mapping):
            return "they were captured in another form"
        self.env.set_attr("snapshot", taken)
        # This step only repeats the flags, so that the vector environment knows what to reset: no environment plays its
        # action, and the rows go on from the checkpoint's.
        self.env.step(RandomPolicy(self.env.single_action_space, self.env.num_envs, self.seed)())
        return next((reason for reason in self.env.get_attr("snapshot") if reason is not None), None)


def _empty(field: Field, rows: int, environments: int) -> np.ndarray:
    return torch.empty((rows, environments, *field.shape), dtype=field.dtype).numpy()
