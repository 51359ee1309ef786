"""An environment that is played while the agent learns: the online LightningDataModule."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import torch
from tensordict import TensorDict

from datamodules.base import DrawnBatches, FromConfig
from datamodules.envs.make import EnvironmentSpec, plain_partial
from datamodules.envs.restarting import Restarting, make_protection
from datamodules.envs.wrappers import seen_through
from datamodules.played.ahead import Ahead
from datamodules.played.fields import field_of, observation_fields
from datamodules.played.inexact_resume import warn_of_new_episodes, warn_of_other_rows
from datamodules.played.inline import CHUNK, InlineCollection
from datamodules.played.kinds import CollectionKind, check_collection, make_collection
from datamodules.played.observation_scales import observation_scales
from datamodules.played.other_side import OtherSide
from datamodules.played.pace import Pace
from datamodules.played.setting import Setting, Vectorization, check_count
from datamodules.played.sides import check_sides
from datamodules.recorded.dataset_info import DatasetInfo
from datamodules.recorded.first_rows import FirstRows
from datamodules.replay.buffered import BufferedReplay
from datamodules.replay.scaled import check_scale, scaled
from datamodules.replay.sequences import SequenceReplay
from datamodules.replay.streams import MakeReplay, ReplaySettings, StreamReplay, check_rows
from datamodules.replay.transitions import move
from modules.arguments.changed import NORMALIZED, RUNNING
from modules.arguments.checks import check_ranges, check_seed, check_sizes
from modules.batch import Spaces
from modules.contracts import Acting, Feedback, ReplayOffer
from modules.run import run_of
from modules.trust.class_path import describe


class OnlineDataModule(FromConfig):
    """Sequences from a replay that the training agent itself fills, a fixed number of updates per environment step.

    Before an update, as many steps are taken as are owed; update `n` waits for
    `prefill + (n - pretrain_updates) / updates_per_step` steps. In a distributed run every process has environments
    and a replay of its own; steps, `prefill`, `steps_per_epoch` and `capacity` count those of all processes together,
    and the batch is `batch_size` on each, so that two processes of 4 environments are as one of 8 with twice the batch.

    Args:
        environment: gymnasium id; `package:Env-v0` imports the package first, or a module in the current folder.
        environment_arguments: arguments of the environment.
        wrappers: wrappers of the environment by class path, innermost first.
        observation_keys: parts of the observation that are kept, after the wrappers; None for all.
        environments: number of environments that are stepped together **on each rank**.
        vectorization: `sync` in this process, `async` each environment in a process of its own, `vector_entry_point`
            for the environment's own vector form.
        resize: side of the square that images are resized to, after the wrappers; None leaves them.
        updates_per_step: updates per environment step; 1 / 5 is one update every 5 steps.
        collect_at_once: steps that are taken in one go, before all updates that they make; 1 takes each one late.
        steps_per_epoch: environment steps that make one epoch.
        reward_scale: factor of the rewards that the agent learns from; reported returns stay as they are.
        prefill: steps before the first update, of a random policy; of the agent where its state is stored with rows.
            Recorded transitions count: as many steps fewer are taken.
        start_from: recorded datasets, as `source` of `OfflineDataModule`, that the replay begins with as if their steps
            had been taken before; None for an empty replay.
        pretrain_updates: updates before the first step of the agent.
        replay: class path of the replay: `datamodules.replay.sequences.SequenceReplay`,
            `datamodules.replay.sequences.LatestWindows` or `datamodules.replay.prioritized.PrioritizedReplay`.
        batch_size: sequences per batch **on each rank**.
        sequence_length: rows of a sequence, or transitions that a prioritised one is learned from.
        capacity: rows that are kept, the newest ones; the reset observation of an episode is a row as well.
        normalize_observation: announce centre and scale of vectors (not bytes), from bounds or a thousand steps of a
            random policy, which the agent normalises with and keeps in its checkpoint; batches stay in raw units.
        folder: folder for the replay's files, each rank in a folder of its own below; default `replay` in the run
            directory. The files grow to `capacity` rows.
        max_restarts: failures of each environment that are forgiven: it is made anew.
        step_timeout: seconds after which a step or reset counts as such a failure; 0 for no limit, which is the default
            in this process; 300 in others.
        episode_infos: names of numbers in the infos of last steps whose means are logged; success always is.
        collection: `inline` takes the steps that an update waits for before it; `background` in another process while
            the agent learns, up to a chunk ahead; `ray` likewise, by the workers of a Ray cluster. What is not inline
            cannot be repeated or resumed exactly.
        refresh_updates: updates after which a policy that acts elsewhere gets the weights of the learning one.
        ray_workers: actors that the environments are dealt to.
        seed: seed of environments, random policy and sampling; each rank adds `1000 * rank`.

    Raises:
        ValueError: an argument is out of range, or the replay or the prefill is too small for one sequence.
    """

    fixed_on_resume: ClassVar[dict[str, str]] = {
        "seed": RUNNING,
        "normalize_observation": NORMALIZED,
        "start_from": "the run's replay began with it",
        **dict.fromkeys(("environments", "capacity", "steps_per_epoch"), "the replay's files were made for it"),
    }

    updates = 0  # batches handed out
    _rows_needed = 0  # rows beyond what the replay needs
    _begun = False  # whether the replay holds the recorded rows, if there are any

    def __init__(
        self,
        environment: str,
        environment_arguments: dict[str, Any] | None = None,
        wrappers: list[Callable[[gym.Env], gym.Env]] | None = None,
        observation_keys: list[str] | None = None,
        environments: int = 8,
        vectorization: Vectorization = "sync",
        resize: int | None = None,
        updates_per_step: float = 0.2,
        collect_at_once: int = 1,
        steps_per_epoch: int = 1000,
        reward_scale: float = 1.0,
        prefill: int = 1000,
        start_from: str | list[str] | None = None,
        pretrain_updates: int = 0,
        replay: MakeReplay = SequenceReplay,
        batch_size: int = 16,
        sequence_length: int = 50,
        capacity: int = 1_000_000,
        normalize_observation: bool = False,
        folder: str | None = None,
        max_restarts: int = 3,
        step_timeout: float | None = None,
        episode_infos: list[str] | None = None,
        collection: CollectionKind = "inline",
        refresh_updates: int = 50,
        ray_workers: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["environment", "environment_arguments", "wrappers", "replay"], logger=False)
        check_sizes(environments=environments, batch_size=batch_size, sequence_length=sequence_length)
        check_sizes(refresh_updates=refresh_updates, ray_workers=ray_workers)
        check_count(environments, vectorization)
        check_ranges(("reward_scale", reward_scale, -1e12, 1e12))
        check_seed(seed=seed)
        check_collection(collection, environments, ray_workers)
        # What is played, and how fast.
        wrapped = (*(wrappers or []), *seen_through(observation_keys, resize))
        self.environment_spec = EnvironmentSpec(environment, environment_arguments or {}, wrapped)
        self.environments = environments
        self.vectorization = vectorization
        self.protection = make_protection(max_restarts, step_timeout, episode_infos, vectorization, collection)
        self._pace = Pace(updates_per_step, steps_per_epoch, prefill, pretrain_updates, collect_at_once)
        self._first_rows = FirstRows(start_from, self.environment_spec) if start_from else None
        self.collection = collection
        self.refresh_updates = refresh_updates
        self.ray_workers = ray_workers
        self.other_side = OtherSide(self.environment_spec, vectorization, collection)
        self.seed = seed
        self._replay_class = plain_partial(replay)
        self.hparams["replay"] = describe(self._replay_class, "replay")
        self.batch_size = batch_size
        self.sequence_length = sequence_length
        self.capacity = capacity
        self.folder = folder
        self.normalize_observation = normalize_observation
        self.reward_scale = reward_scale
        self._check_sizes(1)

    def __str__(self) -> str:
        """A name; Lightning's text would make every loader for a message about an error."""
        return f"{type(self).__name__}({self.environment_spec.id})"

    def _check_sizes(self, world: int) -> None:
        counts = {"capacity": self.capacity}
        if self._first_rows is None:
            counts["prefill"] = self._pace.prefill
        check_rows(counts, world * self.environments, self.sequence_length)

    # ------------------------------------------------------------------------------------------- what is known before
    @functools.cached_property
    def spaces(self) -> Spaces:
        """Spaces of one environment in its wrappers, with observation statistics where they are asked for."""
        env = Restarting(self.environment_spec.make, self.protection, self.environment_spec.id)
        spaces = Spaces(env.observation_space, env.action_space)
        if self.normalize_observation:
            spaces = Spaces(spaces.observation, spaces.action, *observation_scales(env, self.seed))
        env.close()
        observation_fields(spaces.observation)
        field_of(spaces.action, "the action")
        if self._first_rows is not None:
            self._first_rows.check(spaces, self.capacity)
        return spaces

    @property
    def info(self) -> DatasetInfo | None:
        """Identity, returns and references of the recorded dataset that the run begins with; None without one."""
        return None if self._first_rows is None else self._first_rows.info

    @functools.cached_property
    def pace(self) -> Pace:
        """Steps that updates wait for, fewer at the beginning where there are recorded ones."""
        recorded = 0 if self.info is None else self.info.transitions
        return replace(self._pace, prefill=max(0, self._pace.prefill - recorded))

    @property
    def _rank_seed(self) -> int:
        return self.seed + 1000 * self._rank[0]

    def setup(self, stage: str) -> None:
        if stage != "fit":
            raise ValueError("data that are collected have no held-out part; `reverie evaluate` plays a checkpoint")
        self._check_sizes(self._rank[1])
        assert self.spaces  # makes an environment before anything is busy
        if self.trainer is None:
            return
        if run_of(self.trainer).overfit_batches:
            raise ValueError(
                "trainer.overfit_batches: batches of data that are collected never come again; leave it out"
            )
        assert self.replay is not None  # refuses what does not fit
        check_scale(self.reward_scale, self._agent)
        check_sides(self.environment_spec, self._agent)

    # ------------------------------------------------------------------------------------------------ playing, storing
    @functools.cached_property
    def _place(self) -> Path:
        return self._replay_folder(self.folder) / f"rank{self._rank[0]}"

    @property
    def _agent(self) -> Acting:
        assert self.trainer is not None
        agent: object = self.trainer.lightning_module
        if not isinstance(agent, Acting):
            raise ValueError(f"data are collected by an agent that acts, which {type(agent).__name__} does not")
        return agent

    @functools.cached_property
    def replay(self) -> StreamReplay:
        """The replay of this rank."""
        streams = self.environments * self._rank[1]  # of all ranks
        kinds = observation_fields(self.spaces.observation), field_of(self.spaces.action, "the action")
        # Twice what is written from one checkpoint at the end of an epoch to the next one.
        margin = 2 * math.ceil(self.pace.steps_per_epoch / streams) + CHUNK
        settings = ReplaySettings(
            self._place,
            *kinds,
            streams=self.environments,
            capacity=self.capacity // streams,
            margin=margin,
            batch_size=self.batch_size,
            length=self.sequence_length,
            seed=self._rank_seed,
            stored_width=self._agent.stored_width,
        )
        settings.check_batch(CHUNK)
        replay = self._replay_class(settings)
        settings.check_capacity(replay.different)
        return replay

    @functools.cached_property
    def _collecting(self) -> InlineCollection | Ahead:
        """Collection of this rank."""
        agent, replay = self._agent, self.replay
        # A random policy has no state, so that the agent plays from the beginning where states are stored.
        prefill = 0 if agent.stored_width else math.ceil(self.pace.prefill / self._rank[1])
        setting = Setting(self.environment_spec, self.environments, self.vectorization, self.protection, prefill,
                          self.refresh_updates, self._rank_seed)  # fmt: skip
        made = make_collection(self.collection, setting, agent, replay, self.spaces.action, self.ray_workers)
        self.other_side.join(made)
        return made

    @property
    def environment_steps(self) -> int:
        """Environment steps of all ranks so far, those of the random policy included.

        Those of the other ranks are taken to be as many as the own ones: they differ by resets alone.
        """
        return self._collecting.steps * self._rank[1]

    def next_batch(self) -> TensorDict:
        """The replay's batch for the next update, after the steps that it waits for."""
        if self._first_rows is not None and not self._begun:
            self._begun = True
            assert isinstance(self.replay, BufferedReplay)
            self._first_rows.fill(self.replay, self._agent, *self._rank)
        due = self.pace.due(self.updates, self._rank[1])
        self._collecting.provide(due, max(self._rows_needed, self.replay.rows_needed))
        self.updates += 1
        return scaled(self.replay.sample(), self.reward_scale)

    def replay_offer(self) -> ReplayOffer:
        """How the replay cuts its batches, and how many steps there are between two of them."""
        return self.replay.offer._replace(between=1.0 / (self._rank[1] * self.pace.updates_per_step))

    def write_back(self, feedback: Feedback) -> None:
        """Tell the replay what was learned from its latest batch; one without priorities refuses it."""
        self.replay.write_back(feedback)

    def sample_windows(self, count: int, length: int, generator: torch.Generator) -> TensorDict:
        """`[count, length]` uniform windows of the replay, which leave training as it is; refused while it has none."""
        return scaled(self.replay.sample_windows(count, length, generator), self.reward_scale)

    def collection_metrics(self) -> dict[str, float]:
        """Numbers about what was collected: of this rank, apart from the counts of steps and updates.

        `collection/return` and `collection/length` are means over the latest finished episodes, up to 20, and are
        missing before the first. `collection/updates_per_step` is the ratio that was realised after the prefill.
        `collection/steps_per_second` leaves out the time of updates.
        """
        metrics = self._collecting.metrics()
        metrics["environment_steps"] = self.environment_steps
        realised = self.pace.realised(self.updates, self.environment_steps)
        if realised is not None:
            metrics["updates_per_step"] = realised
        return {f"collection/{name}": float(value) for name, value in metrics.items()}

    # --------------------------------------------------------------------------------------------------------- loaders
    def train_dataloader(self) -> DrawnBatches:
        return DrawnBatches(self.next_batch, self.pace.updates_per_epoch)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return move(batch, device)

    # ----------------------------------------------------------------------------------------------------- exact resume
    def rank_state(self) -> dict[str, Any]:
        """State of this rank: sampling, counters, episodes; the rows of the replay stay in their folder, on disk."""
        played = {"collector": self._collecting.state_dict(), "environment": self.environment_spec.to_plain()}
        return {"updates": self.updates, "replay": self.replay.state_dict(), **played}

    def load_rank_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `rank_state`, on the same rank; a warning says so where the run cannot continue exactly.

        Raises:
            ValueError: the replay of the checkpoint is of another size or of other spaces.
        """
        self.updates = state["updates"]
        same_rows = self.replay.load_state_dict(state["replay"])
        self._begun = self._begun or same_rows or len(self.replay) > 0
        if not same_rows:
            self._rows_needed = self.pace.prefill // (self.environments * self._rank[1])
            warn_of_other_rows(self._place, len(self.replay))
        # The state of an environment holds its arguments, so that another one must start anew.
        same_environment = state.get("environment", mine := self.environment_spec.to_plain()) == mine
        why = self._collecting.load_state_dict(state["collector"], continue_episodes=same_rows and same_environment)
        warn_of_new_episodes(self.environment_spec.id, same_environment, why if same_rows else None)

    def on_exception(self, exception: BaseException) -> None:
        self.teardown("fit")

    def teardown(self, stage: str) -> None:
        if "_collecting" in vars(self):
            self._collecting.close()
