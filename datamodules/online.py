"""An environment that is played while the agent learns: the online LightningDataModule."""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities import rank_zero_warn
from tensordict import TensorDict, TensorDictBase

from datamodules.collector import Collector, Vectorization, field_of, make_environments, observation_fields
from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.wrappers import ResizeImages
from datamodules.policies import Acting, AgentPolicy, RandomPolicy
from datamodules.sequences import SequenceReplay
from modules.batch import Spaces

CHUNK = 64
"""Rows of each stream that are collected before they are stored."""
STATISTICS_STEPS = 1000


class OnlineDataModule(LightningDataModule):
    """Sequences from a replay that the training agent itself fills, a fixed number of updates per environment step.

    Before an update, as many steps are taken as are owed; update `n` waits for
    `prefill + (n - pretrain_updates) / updates_per_step` steps. In a distributed run every process has environments
    and a replay of its own; steps, `prefill`, `steps_per_epoch` and `capacity` count those of all processes together,
    and the batch is `batch_size` on each, so that two processes of 4 environments are as one of 8 with twice the batch.

    Args:
        environment: gymnasium id; `package:Env-v0` imports the package first.
        environment_arguments: of the environment.
        wrappers: by class path, innermost first.
        environments: copies that are stepped together **on each rank**.
        vectorization: `sync` in this process, `async` each copy in a process of its own, `vector_entry_point` for the
            environment's own vector form.
        resize: side of the square that images are resized to, after the wrappers; None leaves them.
        updates_per_step: updates per environment step; 1 / 5 is one update every 5 steps.
        steps_per_epoch: environment steps that make one epoch.
        prefill: environment steps of a random policy before the first update.
        pretrain_updates: updates before the first step of the agent.
        batch_size: sequences per batch **on each rank**.
        sequence_length: rows of a sequence.
        capacity: rows that are kept, the newest ones; the reset observation of an episode is a row as well.
        normalize_observation: announce mean and standard deviation of float vectors over a thousand steps of a random
            policy, which the agent normalises with and keeps in its checkpoint; batches stay in raw units.
        prioritize_ends: shift windows to the end of their first episode, see `datamodules.sequences.shift_to_ends`.
        folder: for the replay's files, each rank in a folder of its own below; default `replay` in the run directory.
            The files grow to `capacity` rows.
        max_restarts: failures of each copy of the environment that are forgiven: it is made anew.
        seed: of environments, random policy and sampling; each rank adds `1000 * rank`.

    Raises:
        ValueError: an argument is out of range, or the replay or the prefill is too small for one sequence.
    """

    def __init__(
        self,
        environment: str,
        environment_arguments: dict[str, Any] | None = None,
        wrappers: list[Callable[[gym.Env], gym.Env]] | None = None,
        environments: int = 8,
        vectorization: Vectorization = "sync",
        resize: int | None = None,
        updates_per_step: float = 0.2,
        steps_per_epoch: int = 1000,
        prefill: int = 1000,
        pretrain_updates: int = 0,
        batch_size: int = 16,
        sequence_length: int = 50,
        capacity: int = 1_000_000,
        normalize_observation: bool = False,
        prioritize_ends: bool = False,
        folder: str | None = None,
        max_restarts: int = 3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        sizes = {"environments": environments, "steps_per_epoch": steps_per_epoch, "batch_size": batch_size}
        sizes |= {"sequence_length": sequence_length}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name, value in {"pretrain_updates": pretrain_updates, "max_restarts": max_restarts}.items():
            if value < 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        if not (updates_per_step > 0 and math.isfinite(updates_per_step)):
            raise ValueError(f"updates_per_step must be positive, got {updates_per_step}")
        wrapped = list(wrappers or [])
        if resize is not None:
            wrapped.append(functools.partial(ResizeImages, size=resize))
        self.environment_spec = EnvironmentSpec(environment, environment_arguments or {}, tuple(wrapped))
        self.environments, self.vectorization, self.max_restarts = environments, vectorization, max_restarts
        self.updates_per_step, self.steps_per_epoch, self.prefill = updates_per_step, steps_per_epoch, prefill
        self.pretrain_updates, self.batch_size, self.sequence_length = pretrain_updates, batch_size, sequence_length
        self.capacity, self.prioritize_ends, self.folder, self.seed = capacity, prioritize_ends, folder, seed
        self.normalize_observation = normalize_observation
        self.updates = 0  # batches handed out
        self._rows_needed = sequence_length
        self._check_sizes(1)

    def __str__(self) -> str:
        """A name; Lightning's text would make every loader for a message about an error."""
        return f"{type(self).__name__}({self.environment_spec.id})"

    def _check_sizes(self, world: int) -> None:
        copies = world * self.environments
        for name, value in {"capacity": self.capacity, "prefill": self.prefill}.items():
            if value // copies < self.sequence_length:
                raise ValueError(
                    f"{name}: {value} steps are {value // copies} for each of {copies} environments, less than one "
                    f"sequence of {self.sequence_length}; {name} must be at least {copies * self.sequence_length}"
                )

    # ------------------------------------------------------------------------------------------- what is known before
    @functools.cached_property
    def spaces(self) -> Spaces:
        """Spaces of one environment in its wrappers, with observation statistics where they are asked for."""
        env = self.environment_spec.make()
        spaces = Spaces(env.observation_space, env.action_space)
        if self.normalize_observation:
            spaces = Spaces(spaces.observation, spaces.action, *random_statistics(env, self.seed))
        env.close()
        observation_fields(spaces.observation)
        field_of(spaces.action, "the action")
        return spaces

    @property
    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    @property
    def _rank_seed(self) -> int:
        return self.seed + 1000 * self._rank[0]

    def setup(self, stage: str) -> None:
        self._check_sizes(self._rank[1])
        assert self.spaces  # makes an environment before anything is busy

    # ------------------------------------------------------------------------------------------------ playing, storing
    @functools.cached_property
    def _place(self) -> Path:
        rank = f"rank{self._rank[0]}"
        if self.folder is not None:
            return Path(self.folder) / rank
        if self.trainer is not None and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return Path(self.trainer.default_root_dir) / "replay" / rank
        self._temporary = tempfile.TemporaryDirectory(prefix="reverie-replay-")
        return Path(self._temporary.name) / rank

    @functools.cached_property
    def replay(self) -> SequenceReplay:
        """The replay of this rank."""
        streams = self.environments
        capacity = self.capacity // (streams * self._rank[1])
        # Twice what is written from one checkpoint at the end of an epoch to the next one.
        epoch = 2 * math.ceil(self.steps_per_epoch / (streams * self._rank[1])) + CHUNK
        return SequenceReplay(
            self._place,
            observation_fields(self.spaces.observation),
            field_of(self.spaces.action, "the action"),
            streams=streams,
            capacity=capacity,
            margin=epoch,
            batch_size=self.batch_size,
            length=self.sequence_length,
            prioritize_ends=self.prioritize_ends,
            seed=self._rank_seed,
        )

    @functools.cached_property
    def collector(self) -> Collector:
        """The environments of this rank."""
        env = make_environments(
            self.environment_spec,
            self.environments,
            vectorization=self.vectorization,
            seed=self._rank_seed,
            max_restarts=self.max_restarts,
        )
        return Collector(env, self.environment_spec.id, self._rank_seed)

    @functools.cached_property
    def _random(self) -> RandomPolicy:
        return RandomPolicy(self.spaces.action, self.environments, self._rank_seed)

    @functools.cached_property
    def _acting(self) -> AgentPolicy:
        assert self.trainer is not None
        return AgentPolicy(cast(Acting, self.trainer.lightning_module), self.environments)

    @property
    def environment_steps(self) -> int:
        """Environment steps of all ranks so far, those of the random policy included.

        Those of the other ranks are taken to be as many as the own ones: they differ by resets alone.
        """
        return self.collector.steps * self._rank[1]

    def _owed(self) -> int:
        """Environment steps of this rank that the next update waits for."""
        updates = max(0, self.updates + 1 - self.pretrain_updates)
        total = self.prefill + math.ceil(updates / self.updates_per_step - 1e-6)
        return max(0, math.ceil((total - self.environment_steps) / self._rank[1]))

    def _prepare(self) -> None:
        """Take the steps that the next update waits for."""
        while True:
            random = self.environment_steps < self.prefill
            left = math.ceil((self.prefill - self.environment_steps) / self._rank[1]) if random else self._owed()
            if left == 0:
                missing = self._rows_needed - len(self.replay)
                if missing <= 0:
                    return
                left = missing * self.environments
            rows = min(CHUNK, math.ceil(left / self.environments))
            self.replay.extend(self.collector.collect(rows, self._random if random else self._acting))

    def next_batch(self) -> TensorDict:
        """`[B, T]` sequences for the next update, after the steps that it waits for."""
        self._prepare()
        self.updates += 1
        return self.replay.sample()

    def sample_windows(self, count: int, length: int, generator: torch.Generator) -> TensorDict:
        """`[count, length]` uniform windows of the replay, which leave training as it is.

        Raises:
            ValueError: the replay holds less than one window.
        """
        return self.replay.sample_windows(count, length, generator)

    def collection_metrics(self) -> dict[str, float]:
        """Numbers about what was collected: of this rank, apart from the counts of steps and updates.

        `collection/return` and `collection/length` are means over the latest finished episodes, up to 20, and are
        missing before the first. `collection/updates_per_step` is the ratio that was realised after the prefill.
        `collection/steps_per_second` leaves out the time of updates.
        """
        collector = self.collector
        metrics: dict[str, float] = {}
        if collector.finished:
            returns, lengths = zip(*collector.finished, strict=True)
            metrics = {"return": float(np.mean(returns)), "length": float(np.mean(lengths))}
        metrics |= {"episodes": collector.episodes, "environment_steps": self.environment_steps}
        after = self.environment_steps - self.prefill
        if after > 0:
            metrics["updates_per_step"] = max(0, self.updates - self.pretrain_updates) / after
        metrics["steps_per_second"] = collector.speed
        metrics["restarts"] = collector.restarts
        return {f"collection/{name}": float(value) for name, value in metrics.items()}

    # --------------------------------------------------------------------------------------------------------- loaders
    def train_dataloader(self) -> OwedBatches:
        length = max(1, round(self.steps_per_epoch * self.updates_per_step))
        return OwedBatches(self.next_batch, length)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """The batch as it is where it is there already: Lightning's own transfer copies it regardless."""
        if isinstance(batch, TensorDictBase) and batch.device == device:
            return batch
        return batch.to(device)

    # ----------------------------------------------------------------------------------------------------- exact resume
    def rank_state(self) -> dict[str, Any]:
        """State of this rank: sampling, counters, episodes; the rows of the replay stay in their folder, on disk."""
        return {
            "updates": self.updates,
            "replay": self.replay.state(),
            "collector": self.collector.state(),
            "random": self._random.state(),
            "acting": self._acting.state(),
        }

    def load_rank_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `rank_state`, on the same rank; a warning says so where the run cannot continue exactly.

        Raises:
            ValueError: the replay of the checkpoint is of another size or of other spaces.
        """
        self.updates = state["updates"]
        same_rows = self.replay.load_state(state["replay"])
        if not same_rows:
            rows = len(self.replay)
            self._rows_needed = max(self.sequence_length, self.prefill // (self.environments * self._rank[1]))
            rank_zero_warn(
                f"the replay in {self._place} is not that of the checkpoint: the run continues with its newest "
                f"{rows} rows for each environment, and not exactly"
            )
        why = self.collector.load_state(state["collector"], continue_episodes=same_rows)
        if why is not None and same_rows:
            rank_zero_warn(
                f"the state of {self.environment_spec.id} cannot be restored ({why}): its episodes start anew, and "
                "the run does not continue exactly"
            )
        self._random.load_state(state["random"])
        self._acting.load_state(state["acting"])

    def teardown(self, stage: str) -> None:
        if "collector" in vars(self):
            self.collector.close()


def random_statistics(env: gym.Env, seed: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Mean and standard deviation of every float vector, by key, over steps of a random policy.

    A number that never changes gets the deviation 1, and so stays near zero.

    Raises:
        ValueError: the observation has no float vector.
    """
    parts = Spaces(env.observation_space, env.action_space).observations_by_key()
    keys = [key for key, space in parts.items() if len(space.shape or (0, 0)) == 1 and space.dtype.kind == "f"]  # type: ignore[union-attr]
    if not keys:
        raise ValueError(f"normalize_observation works on float vectors, and there is none in {env.observation_space}")
    env.action_space.seed(seed)
    seen: dict[str, list[np.ndarray]] = {key: [] for key in keys}
    done = True
    for _ in range(STATISTICS_STEPS):
        if done:
            observation, _ = env.reset(seed=seed if not seen[keys[0]] else None)
        else:
            observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        done = not done and (terminated or truncated)
        for key in keys:
            seen[key].append(np.asarray(observation[key] if isinstance(observation, dict) else observation, np.float32))
    rows = {key: np.stack(values) for key, values in seen.items()}
    std = {key: values.std(0) for key, values in rows.items()}
    return {key: values.mean(0) for key, values in rows.items()}, {
        k: np.where(s < 1e-6, 1.0, s) for k, s in std.items()
    }


class OwedBatches:
    """Endless iterable whose `len` is one epoch; drawing a batch takes the environment steps that it waits for."""

    def __init__(self, draw: Callable[[], TensorDict], length: int) -> None:
        self.draw, self.length = draw, length

    def __iter__(self) -> Iterator[TensorDict]:
        while True:
            yield self.draw()

    def __len__(self) -> int:
        return self.length
