"""Collecting on many machines: TorchRL's collectors under Ray, whose rows go into the replay of the learner."""

from __future__ import annotations

import functools
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.collectors import Collector
from torchrl.data import Composite, Unbounded
from torchrl.envs import EnvBase

from datamodules.envs.contract import check_finite
from datamodules.envs.processes import RESTART_SECONDS
from datamodules.envs.stepping import Row, RowStream
from datamodules.played.ahead import CHUNK, PATIENCE, Ahead, Reply, Request
from datamodules.played.fields import field_of, observation_fields
from datamodules.played.policies import AgentPolicy, Policy, RandomPolicy
from datamodules.played.ray_start import connect_ray, need_ray, original
from datamodules.played.setting import Setting, make_environments
from datamodules.replay.memory_mapped_rows import Field
from datamodules.replay.streams import OBSERVATION, STORED, StreamReplay
from modules.batch import PLAIN, by_name
from modules.contracts import Copyable
from modules.trust.beside import with_finder

FLAGS = ("is_first", "terminated", "truncated")


class Streams(EnvBase):
    """Parallel environments for TorchRL, to which they never end: the reset is a step, as in the rows of a replay.

    TorchRL's layout has no row for the reset observation of an episode, the replay has. So what TorchRL takes for the
    observation is a whole `row`: the environment's observation by key, the reward and the flags; `done` stays False.

    Args:
        make: function that makes `n` environments that reset in the step after an end.
        seed: seed of their first reset, and of torch in this process, for the actions.
    """

    def __init__(self, make: Callable[[], VectorEnv], seed: int) -> None:
        self._played = make()
        self._stream = RowStream(self._played)
        self._seed_of_reset = seed
        torch.manual_seed(seed)
        count = self._played.num_envs
        super().__init__(device="cpu", batch_size=[count])
        fields = observation_fields(self._played.single_observation_space)
        self._fields = {PLAIN: fields} if isinstance(fields, Field) else fields
        action = field_of(self._played.single_action_space, "the action")
        flags = {name: Unbounded((count,), dtype=torch.bool) for name in FLAGS}
        parts = {key: Unbounded((count, *f.shape), dtype=f.dtype) for key, f in self._fields.items()}
        reward = Unbounded((count,), dtype=torch.float32)
        row = Composite(observation=Composite(parts, shape=[count]), reward=reward, **flags, shape=[count])
        self.observation_spec = Composite(row=row, shape=[count])
        self.action_spec = Unbounded((count, *action.shape), dtype=action.dtype)
        self.reward_spec = Unbounded((count, 1), dtype=torch.float32)

    def _reset(self, tensordict: TensorDictBase | None = None, **_: Any) -> TensorDict:
        return self._to_tensordict(self._stream.reset(self._seed_of_reset))

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        step = self._to_tensordict(self._stream.step(tensordict["action"].numpy()))
        step["reward"] = step["row", "reward"].unsqueeze(-1)
        return step

    def _to_tensordict(self, row: Row) -> TensorDict:
        size = self.batch_size
        arrays = row.observation if isinstance(row.observation, dict) else {PLAIN: row.observation}
        parts = {key: torch.tensor(np.asarray(arrays[key]), dtype=f.dtype) for key, f in self._fields.items()}
        flags = {name: torch.tensor(getattr(row, name)) for name in FLAGS}
        reward = torch.tensor(row.reward, dtype=torch.float32)
        fields = TensorDict({OBSERVATION: TensorDict(parts, size), "reward": reward, **flags}, size)
        never = torch.zeros(*size, 1, dtype=torch.bool)
        return TensorDict({"row": fields, "done": never, "terminated": never.clone()}, size)

    def _set_seed(self, seed: int | None) -> None:
        """Nothing: the constructor has seeded, since TorchRL gives all of its workers one seed."""

    def close(self, *, raise_if_closed: bool = True) -> None:
        self._played.close()
        super().close(raise_if_closed=raise_if_closed)


class WorkerPolicy(TensorDictModuleBase):
    """The random policy for the first rows, then a copy of the agent; it is pickled by its arguments.

    Args:
        agent: function that makes the copy.
        action: space of one action.
        random_rows: number of rows of the random policy.
    """

    in_keys = ["row"]  # noqa: RUF012 - how TorchRL wants it

    def __init__(self, agent: Callable[[], Copyable], action: gym.Space, random_rows: int) -> None:
        super().__init__()
        self._made_of = agent, action, random_rows
        self._action = action
        self._random_rows = random_rows
        self.agent = agent()
        self.out_keys = ["action", STORED] if self.agent.stored_width else ["action"]
        self.register_buffer("updates", torch.tensor(self.agent.updates))
        self._policies: Iterator[Policy] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._made_of

    def _in_turn(self, count: int) -> Iterator[Policy]:
        random = RandomPolicy(self._action, count, int(torch.randint(2**31, ())))
        yield from itertools.repeat(random, self._random_rows)
        yield from itertools.repeat(AgentPolicy(self.agent, count))

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Actions for a row, and what the agent stores with the next one unless that is a reset.

        The first row of all is one with which TorchRL tries the policy.
        """
        row = tensordict["row"]
        if self._policies is None:
            self._policies = self._in_turn(row.shape[0])
        self.agent.updates = int(self.updates)
        parts = dict(row[OBSERVATION].items())
        observation = parts.get(PLAIN, parts) if len(parts) == 1 else parts
        policy = next(self._policies)
        action = policy(observation, row["is_first"].numpy(), row["reward"].numpy())
        if policy.stored_width:
            stored = policy.stored_state(np.zeros(row.shape[0], bool))
            tensordict.set(STORED, torch.from_numpy(stored))
        return tensordict.set("action", torch.as_tensor(action))


class WorkerCollector(Collector):
    """TorchRL's collector with a truth value and a short name.

    Ray asks for the truth value before it reports an error, and the `len` of an endless collector raises. It puts the
    name before every line of a worker's log, and TorchRL's holds the whole agent.
    """

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return "collection"


class RayCollection(Ahead):
    """Environments on the machines of a Ray cluster, or on this one if there is none, dealt to `workers` actors.

    The cluster is the one that is initialised, or that of `RAY_ADDRESS`, or one that is started here. Environments that
    are made anew are reported in the logs of the workers and are not counted here; nor is their success.

    Args:
        setting: environments and how they are collected from; they are dealt evenly.
        replay: replay that the rows are written into.
        agent: learning agent.
        action: space of one action.
        workers: number of actors, each on a processor.

    Raises:
        ValueError: the environments cannot be dealt evenly, Ray is missing, or has fewer processors.
    """

    def __init__(
        self, setting: Setting, replay: StreamReplay, agent: Copyable, action: gym.Space, workers: int
    ) -> None:
        super().__init__(setting, replay, agent)
        self._action = action
        self._workers = workers
        self._thread = ThreadPoolExecutor(1, "ray-collection")
        self._result: Future[TensorDict] | None = None
        self._began = 0.0
        self._beginning = True  # the next rows are the first of a collector
        self._owns_ray = False

    @functools.cached_property
    def _policy(self) -> WorkerPolicy:
        """The policy that every worker gets a copy of."""
        weights = {name: value.detach().cpu().clone() for name, value in self.agent.state_dict().items()}
        rows = max(0, math.ceil((self.setting.prefill - self.steps) / self.setting.environments))
        return WorkerPolicy(self.agent.copy_for_acting(weights), self._action, rows + 1 if rows else 0)

    @functools.cached_property
    def _at_reset(self) -> Tensor | None:
        """`[W]` that the agent stores with the row of a reset; None where it stores nothing."""
        if not self.agent.stored_width:
            return None
        return torch.from_numpy(AgentPolicy(self.agent, 1).stored_state(np.ones(1, bool))[0])

    @functools.cached_property
    def _collector(self) -> Any:
        """TorchRL's collector, started at the first request."""
        self._owns_ray = connect_ray(self._workers)
        from torchrl.collectors.distributed import RayCollector

        setting, each = self.setting, self.setting.environments // self._workers
        seed = setting.seed_at(self.steps)
        make = functools.partial(
            make_environments,
            setting.spec,
            each,
            vectorization=setting.vectorization,
            protection=setting.protection,
        )
        seeds = [seed + each * worker for worker in range(self._workers)]
        collector = RayCollector(
            [with_finder(functools.partial(Streams, functools.partial(make, seed=first), first)) for first in seeds],
            self._policy,
            frames_per_batch=CHUNK * setting.environments,
            sync=True,
            collector_class=WorkerCollector,
            collector_kwargs={"auto_register_policy_transforms": False},
            remote_configs={"num_cpus": 1},
            total_frames=sys.maxsize,
            exploration_type=None,
        )
        collector.update_policy_weights_(self._policy)  # connects them, which takes a while
        return collector

    @functools.cached_property
    def _batches(self) -> Iterator[TensorDict]:
        return iter(self._collector)

    def _send(self, request: Request) -> None:
        collector = self._collector
        if request.updates is not None:
            self._policy.agent.load_state_dict(self.agent.state_dict())
            self._policy.updates.fill_(request.updates)
            collector.update_policy_weights_(self._policy)
        self._began = time.perf_counter()
        self._result = self._thread.submit(next, self._batches)

    def _receive(self) -> Reply:
        assert self._result is not None
        timeout = self.setting.protection.step_timeout
        each = self.setting.environments // self._workers  # which are stepped one after another
        try:
            frames = self._result.result(timeout * each * CHUNK + RESTART_SECONDS if timeout else None)
        except FutureTimeout:
            self.close()
            raise ValueError(
                f"environment {self.setting.spec.id!r}: the workers took more than {CHUNK} times step_timeout, "
                f"{timeout:g} s"
            ) from None
        except Exception as error:
            self.close()
            raise original(error) from error
        seconds = time.perf_counter() - self._began
        found = to_rows(frames, self._beginning, self._at_reset)
        self._beginning = False
        rows = {name: values.numpy() for name, values in by_name(found).items()}
        for name, values in rows.items():
            check_finite(self.setting.spec.id, name, values)
        return Reply(rows, 0, seconds, {})

    def close(self) -> None:
        if self._result is not None:
            wait([self._result], PATIENCE)
        for name in ("_batches", "_collector", "_policy"):
            made = vars(self).pop(name, None)
            if name == "_collector" and made is not None:
                made.shutdown()
        if self._owns_ray:
            import ray

            ray.shutdown()
            self._owns_ray = False
        self._beginning = True
        self._begin_anew()


def check_ray(environments: int, workers: int) -> None:
    """Refuse numbers of environments that `RayCollection` cannot deal to its workers.

    Args:
        environments: number of environments.
        workers: number of actors.

    Raises:
        ValueError: the environments cannot be dealt evenly to the workers, or Ray is missing.
    """
    if workers < 1 or environments % workers:
        raise ValueError(f"ray_workers: {environments} environments cannot be dealt evenly to {workers} workers")
    need_ray("collection: ray")


def to_rows(frames: TensorDictBase, beginning: bool, at_reset: Tensor | None = None) -> TensorDict:
    """Rows of the replay from TorchRL's frames.

    Args:
        frames: `[workers, n, t]` frames of TorchRL: `action`, and under `next` the `row` that it led to; and `stored`,
            where the agent stores something with that row.
        beginning: whether these are the first frames, whose first observation is a row as well.
        at_reset: `[W]` that the agent stores with the row of a reset instead.

    Returns:
        `[t, workers * n]` rows, or `[t + 1, workers * n]` from the beginning.
    """
    frames = frames.flatten(0, 1).transpose(0, 1)
    row = frames["next", "row"]
    is_first = row["is_first"]
    action = frames["action"].clone()
    action[is_first] = 0
    kept = (OBSERVATION, "reward", *FLAGS)
    rows = TensorDict({"previous_action": action, **{name: row[name] for name in kept}}, frames.shape)
    if at_reset is not None:
        rows[STORED] = torch.where(is_first.unsqueeze(-1), at_reset, frames[STORED])
    if beginning:
        before = rows[:1].apply(torch.zeros_like)
        before[OBSERVATION], before["is_first"] = frames["row", OBSERVATION][:1], torch.ones_like(is_first[:1])
        if at_reset is not None:
            before[STORED] = at_reset.expand_as(before[STORED])
        rows = torch.cat([before, rows])
    observation = rows[OBSERVATION]
    if list(observation.keys()) == [PLAIN]:
        rows[OBSERVATION] = observation[PLAIN]
    return rows
