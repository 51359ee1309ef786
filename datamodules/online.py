"""An environment that is played while the agent learns: the online LightningDataModule."""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import gymnasium as gym
import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities import rank_zero_warn
from tensordict import TensorDict

from datamodules.background import Ahead, BackgroundCollection, Copyable, Setting
from datamodules.collector import Collector, Vectorization, field_of, make_environments, observation_fields
from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.wrappers import ResizeImages
from datamodules.observation_scales import observation_scales
from datamodules.owed_batches import OwedBatches
from datamodules.policies import Acting, AgentPolicy, RandomPolicy
from datamodules.replay import move
from datamodules.sequences import SequenceReplay
from datamodules.tally import Tally
from modules.arguments import check_sizes
from modules.batch import Spaces

CHUNK = 64
"""Rows of each stream that are collected before they are stored."""


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
        reward_scale: of the rewards that the agent learns from; reported returns stay as they are.
        prefill: environment steps of a random policy before the first update.
        pretrain_updates: updates before the first step of the agent.
        batch_size: sequences per batch **on each rank**.
        sequence_length: rows of a sequence.
        capacity: rows that are kept, the newest ones; the reset observation of an episode is a row as well.
        normalize_observation: announce centre and scale of float vectors, from their bounds or a thousand steps of a
            random policy, which the agent normalises with and keeps in its checkpoint; batches stay in raw units.
        prioritize_ends: shift windows to the end of their first episode, see `datamodules.sequences.shift_to_ends`.
        folder: for the replay's files, each rank in a folder of its own below; default `replay` in the run directory.
            The files grow to `capacity` rows.
        max_restarts: failures of each copy of the environment that are forgiven: it is made anew.
        collection: `inline` takes the steps that an update waits for before it; `background` in another process while
            the agent learns, up to a chunk ahead; `ray` likewise, by the workers of a Ray cluster. What is not inline
            cannot be repeated or resumed exactly.
        refresh_updates: updates after which a policy that acts elsewhere gets the weights of the learning one.
        ray_workers: actors that the environments are dealt to.
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
        reward_scale: float = 1.0,
        prefill: int = 1000,
        pretrain_updates: int = 0,
        batch_size: int = 16,
        sequence_length: int = 50,
        capacity: int = 1_000_000,
        normalize_observation: bool = False,
        prioritize_ends: bool = False,
        folder: str | None = None,
        max_restarts: int = 3,
        collection: Literal["inline", "background", "ray"] = "inline",
        refresh_updates: int = 50,
        ray_workers: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_sizes(
            environments=environments,
            steps_per_epoch=steps_per_epoch,
            batch_size=batch_size,
            sequence_length=sequence_length,
            refresh_updates=refresh_updates,
        )
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
        self.normalize_observation, self.reward_scale = normalize_observation, reward_scale
        self.collection, self.refresh_updates, self.ray_workers = collection, refresh_updates, ray_workers
        if collection == "ray":
            from datamodules.ray_collection import check_ray  # imports half of TorchRL

            check_ray(environments, ray_workers)
        if collection != "inline":
            rank_zero_warn(f"collection: {collection}: rows arrive in an unrepeatable order; a resume is not exact")
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
            spaces = Spaces(spaces.observation, spaces.action, *observation_scales(env, self.seed))
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
        if stage != "fit":
            raise ValueError("data that are collected have no held-out part; `reverie evaluate` plays a checkpoint")
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
    def _make_replay(self) -> Callable[[], SequenceReplay]:
        streams = self.environments
        capacity = self.capacity // (streams * self._rank[1])
        # Twice what is written from one checkpoint at the end of an epoch to the next one.
        epoch = 2 * math.ceil(self.steps_per_epoch / (streams * self._rank[1])) + CHUNK
        return functools.partial(
            SequenceReplay,
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
    def replay(self) -> SequenceReplay:
        """The replay of this rank."""
        return self._make_replay()

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

    @functools.cached_property
    def _ahead(self) -> Ahead:
        """What plays the environments elsewhere."""
        assert self.trainer is not None
        agent = self.trainer.lightning_module
        if not hasattr(agent, "copy_for_acting"):
            raise ValueError(
                f"collection: {self.collection}: {type(agent).__name__} has no copy_for_acting; use inline"
            )
        prefill = math.ceil(self.prefill / self._rank[1])
        setting = Setting(self.environment_spec, self.environments, self.vectorization, self.max_restarts, prefill,
                          self.refresh_updates, self._rank_seed)  # fmt: skip
        learner = cast(Copyable, agent)
        if self.collection == "ray":
            from datamodules.ray_collection import RayCollection

            return RayCollection(setting, self.replay, learner, self.spaces.action, self.ray_workers)
        return BackgroundCollection(setting, self._make_replay, self.replay, learner)

    @property
    def _tally(self) -> Tally:
        return self.collector if self.collection == "inline" else self._ahead

    @property
    def environment_steps(self) -> int:
        """Environment steps of all ranks so far, those of the random policy included.

        Those of the other ranks are taken to be as many as the own ones: they differ by resets alone.
        """
        return self._tally.steps * self._rank[1]

    def _due(self) -> int:
        """Environment steps of this rank that the next update waits for, counted from the beginning."""
        updates = max(0, self.updates + 1 - self.pretrain_updates)
        return math.ceil((self.prefill + math.ceil(updates / self.updates_per_step - 1e-6)) / self._rank[1])

    def _prepare(self) -> None:
        """Take the steps that the next update waits for."""
        while True:
            random = self.environment_steps < self.prefill
            until = math.ceil(self.prefill / self._rank[1]) if random else self._due()
            left = until - self.collector.steps
            if left <= 0:
                missing = self._rows_needed - len(self.replay)
                if missing <= 0:
                    return
                left = missing * self.environments
            rows = min(CHUNK, math.ceil(left / self.environments))
            self.replay.extend(self.collector.collect(rows, self._random if random else self._acting))

    def next_batch(self) -> TensorDict:
        """`[B, T]` sequences for the next update, after the steps that it waits for."""
        if self.collection == "inline":
            self._prepare()
        else:
            self._ahead.provide(self._due(), self._rows_needed)
        self.updates += 1
        return self._scaled(self.replay.sample())

    def _scaled(self, batch: TensorDict) -> TensorDict:
        return batch if self.reward_scale == 1.0 else batch.set("reward", batch["reward"] * self.reward_scale)

    def sample_windows(self, count: int, length: int, generator: torch.Generator) -> TensorDict:
        """`[count, length]` uniform windows of the replay, which leave training as it is.

        Raises:
            ValueError: the replay holds less than one window.
        """
        return self._scaled(self.replay.sample_windows(count, length, generator))

    def collection_metrics(self) -> dict[str, float]:
        """Numbers about what was collected: of this rank, apart from the counts of steps and updates.

        `collection/return` and `collection/length` are means over the latest finished episodes, up to 20, and are
        missing before the first. `collection/updates_per_step` is the ratio that was realised after the prefill.
        `collection/steps_per_second` leaves out the time of updates.
        """
        metrics = self._tally.metrics()
        metrics["environment_steps"] = self.environment_steps
        after = self.environment_steps - self.prefill
        if after > 0:
            metrics["updates_per_step"] = max(0, self.updates - self.pretrain_updates) / after
        return {f"collection/{name}": float(value) for name, value in metrics.items()}

    # --------------------------------------------------------------------------------------------------------- loaders
    def train_dataloader(self) -> OwedBatches:
        length = max(1, round(self.steps_per_epoch * self.updates_per_step))
        return OwedBatches(self.next_batch, length)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return move(batch, device)

    # ----------------------------------------------------------------------------------------------------- exact resume
    def rank_state(self) -> dict[str, Any]:
        """State of this rank: sampling, counters, episodes; the rows of the replay stay in their folder, on disk."""
        state = {"updates": self.updates, "replay": self.replay.state()}
        if self.collection != "inline":
            return {**state, "collector": self._ahead.state()}
        policies = {"random": self._random.state(), "acting": self._acting.state()}
        return {**state, "collector": self.collector.state(), **policies}

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
        if self.collection != "inline":
            self._ahead.load_state(state["collector"])
            return
        why = self.collector.load_state(state["collector"], continue_episodes=same_rows)
        if why is not None and same_rows:
            rank_zero_warn(
                f"the state of {self.environment_spec.id} cannot be restored ({why}): its episodes start anew, and "
                "the run does not continue exactly"
            )
        if "random" in state:
            self._random.load_state(state["random"])
            self._acting.load_state(state["acting"])

    def on_exception(self, exception: BaseException) -> None:
        self.teardown("fit")

    def teardown(self, stage: str) -> None:
        for name in ("collector", "_ahead"):
            if name in vars(self):
                vars(self)[name].close()
