"""Recorded episodes to sequences: agents with a memory or a world model learn from data alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import gymnasium as gym
import torch
from tensordict import TensorDict

from datamodules.base import DrawnBatches, SameBatches
from datamodules.envs.make import plain_partial
from datamodules.envs.recorded_environment import Changes
from datamodules.played.fields import field_of, observation_fields
from datamodules.recorded.replayed import RecordedStreams, check_replay, fill, fresh_state
from datamodules.recorded.seen import View
from datamodules.recorded_episodes import JOINED, RecordedEpisodes, both_references
from datamodules.replay.buffered import BufferedReplay
from datamodules.replay.scaled import check_scale, scaled
from datamodules.replay.sequences import SequenceReplay
from datamodules.replay.streams import MakeReplay, ReplaySettings
from datamodules.replay.transitions import move
from modules.arguments.changed import NORMALIZED, RUNNING
from modules.arguments.checks import check_choice, check_ranges, check_seed, check_shares, check_sizes
from modules.contracts import Feedback, ReplayOffer
from modules.run import run_of
from modules.trust.class_path import describe

OBJECTS = ["replay", "environment_arguments", "wrappers", "observation_space", "action_space"]
"""Arguments that may hold objects, which no checkpoint may name."""


SPARE = 1000
"""Further places: more rows than a sequence has, whatever its burn-in. Files take room on the disk when written."""


class OfflineSequenceDataModule(RecordedEpisodes):
    """Sequences of one or more recorded datasets, drawn by a replay of `OnlineDataModule` that holds all of them.

    The replay is filled once, at the start, as if the agent had played the episodes end to end; rows, windows and
    priorities are those of `docs/data.md`. Every process of a distributed run has a replay of its own share: training
    episodes are dealt round-robin to the ranks, each rank with a seed of its own.

    Recorded rows hold nothing of the state of the agent that learns. Sequences that start from a stored state start
    from that before the first action, and the rows of the burn-in warm it up; with `refresh_states` of a
    `PrioritizedReplay`, those that follow another start from what the agent has found there since. An agent that stores
    what a search found (`stored_optional`) reads that nobody has searched there, and may search itself.

    Args:
        source: file, folder or Minari id; several are joined when their spaces and environments agree.
        format: `auto`, or one of `hdf5`, `npz`, `minari`, `memmap`.
        replay: class path of the replay: `datamodules.replay.sequences.SequenceReplay`,
            `datamodules.replay.single_steps.TransitionReplay` or `datamodules.replay.prioritized.PrioritizedReplay`.
        batch_size: sequences per batch **on each rank**.
        sequence_length: rows of a sequence, or transitions that a prioritised one is learned from.
        updates_per_epoch: batches that make one epoch, since sampling never ends.
        validation_fraction: share of the episodes that is held out, chosen by `seed`; 0 for agents that have no losses
            on held-out data.
        validation_batches: batches of windows per validation, the same ones every time.
        normalize_observation: announce mean and standard deviation of the training observations, which the agent
            normalises with and keeps in its checkpoint; batches stay in raw units.
        reward_scale: factor of the rewards that the agent learns from; reported returns stay as they are.
        truncation: treatment of the last step of an episode that was cut, see `OfflineDataModule`.
        folder: folder for the replay's files, each rank in a folder of its own below; default `replay` in the run
            directory.
        download: allow Minari to download a dataset that is not on this machine.
        cache_dir: folder for conversions; default `$REVERIE_CACHE`, else `~/.cache/reverie/datasets`.
        environment: gymnasium id. A dataset that names another one is refused; one that names none gets this.
        environment_arguments: arguments of the environment, on top of those that the dataset names.
        wrappers: wrappers of the environment, innermost first, in place of those that the dataset names.
        observation_keys: parts of Dict observations that are joined, in this order, see `OfflineDataModule`.
        resize: side of the square that images are resized to, in the data and in the environment; None leaves them.
        observation_space: space of data without an environment; inferred, with a warning, if not given.
        action_space: see `observation_space`.
        reference_min: return of a random policy, for normalised scores; overrides what the dataset says.
        reference_max: return of an expert; give both or neither.
        seed: seed of the split and of the sampling (`seed + 1000 * rank`).

    Raises:
        ValueError: an argument is out of range, or a source is missing, unreadable or holds bad data.
    """

    fixed_on_resume: ClassVar[dict[str, str]] = {
        "seed": RUNNING,
        "normalize_observation": NORMALIZED,
        "observation_keys": JOINED,
        "sequence_length": "the replay's files were made for it",
        "validation_fraction": "the replay was filled with the other episodes",
    }

    def __init__(
        self,
        source: str | list[str],
        format: str = "auto",
        replay: MakeReplay = SequenceReplay,
        batch_size: int = 16,
        sequence_length: int = 50,
        updates_per_epoch: int = 1000,
        validation_fraction: float = 0.05,
        validation_batches: int = 10,
        normalize_observation: bool = False,
        reward_scale: float = 1.0,
        truncation: Literal["keep", "drop"] = "keep",
        folder: str | None = None,
        download: bool = False,
        cache_dir: str | None = None,
        environment: str | None = None,
        environment_arguments: dict[str, Any] | None = None,
        wrappers: list[Callable[[gym.Env], gym.Env]] | None = None,
        observation_keys: list[str] | None = None,
        resize: int | None = None,
        observation_space: gym.Space | None = None,
        action_space: gym.Space | None = None,
        reference_min: float | None = None,
        reference_max: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=OBJECTS, logger=False)
        check_sizes(batch_size=batch_size, sequence_length=sequence_length, updates_per_epoch=updates_per_epoch)
        check_sizes(validation_batches=validation_batches)
        check_seed(seed=seed)
        check_ranges(("reward_scale", reward_scale, -1e12, 1e12))
        check_choice("truncation", truncation, ("keep", "drop"))
        check_shares(validation_fraction=validation_fraction)
        # The data, as `RecordedEpisodes` opens them.
        self.references = both_references(reference_min, reference_max)
        self.sources = [source] if isinstance(source, str) else list(source)
        check_sizes(sources=len(self.sources))
        self.format = format
        self.truncation = truncation
        self.download = download
        self.cache_dir = cache_dir
        self._asked = Changes(environment, environment_arguments or {}, wrappers)
        self.view = View(observation_keys, resize)
        self.given_spaces = (observation_space, action_space)
        self.validation_fraction = validation_fraction
        self.normalize_observation = normalize_observation
        self.seed = seed
        # What is drawn of them.
        self._replay_class = plain_partial(replay)
        self.hparams["replay"] = describe(self._replay_class, "replay")
        self.batch_size = batch_size
        self.sequence_length = sequence_length
        self.updates_per_epoch = updates_per_epoch
        self.validation_batches = validation_batches
        self.reward_scale = reward_scale
        self.folder = folder

    def __str__(self) -> str:
        """A name; Lightning's text would make every loader, and so convert the data, for a message about an error."""
        return f"{type(self).__name__}({', '.join(self.sources)})"

    def setup(self, stage: str) -> None:
        """Fill the replay, before any device is busy.

        Raises:
            ValueError: the data cannot be learned from by this agent, trainer and replay.
        """
        assert self.spaces  # converts and checks
        if stage == "fit" and self.trainer is not None:
            if run_of(self.trainer).overfit_batches:
                raise ValueError("trainer.overfit_batches: a replay's batches never come again; leave it out")
            check_scale(self.reward_scale, self.trainer.lightning_module)
            assert self.replay

    # -------------------------------------------------------------------------------------------------------- replays
    @functools.cached_property
    def replay(self) -> BufferedReplay:
        """The replay of this rank, with its share of the training episodes in it."""
        rank, world = self._rank
        episodes = self._split[0]
        if len(episodes) < world:
            raise ValueError(
                f"{self.info.name} has {len(episodes)} training episodes, less than one for each of {world} processes; "
                "use fewer processes"
            )
        agent = None if self.trainer is None else self.trainer.lightning_module
        replay = self._filled(f"rank{rank}", episodes[rank::world], self._replay_class, agent)
        if isinstance(replay, SequenceReplay) and len(replay) < replay.rows_needed:
            raise ValueError(
                f"sequence_length: {self.sequence_length} rows are more than the {len(replay)} of {self.info.name}'s "
                "training episodes; shorten it, or hold fewer out"
            )
        return replay

    @functools.cached_property
    def _held_out(self) -> BufferedReplay:
        """The held-out episodes, of which every rank draws all."""
        return self._filled(f"held_out{self._rank[0]}", self._split[1], SequenceReplay, None)

    def _filled(self, name: str, episodes: Any, kind: MakeReplay, agent: object) -> BufferedReplay:
        stored = fresh_state(agent)
        recorded = RecordedStreams.of(self.dataset, episodes, streams=1)
        kinds = observation_fields(self.spaces.observation), field_of(self.spaces.action, "the action")
        settings = ReplaySettings(
            self._place / name,
            *kinds,
            streams=1,
            # A replay may count the end of an episode as a whole sequence, however short it is.
            capacity=len(recorded) + self.sequence_length * len(episodes) + SPARE,
            margin=0,
            batch_size=self.batch_size,
            length=self.sequence_length,
            seed=self.seed + 1000 * self._rank[0],
            stored_width=0 if stored is None else len(stored),
        )
        settings.check_batch()
        replay = kind(settings)
        check_replay(replay, agent)
        assert isinstance(replay, BufferedReplay)
        fill(replay, recorded, stored)
        return replay

    @functools.cached_property
    def _place(self) -> Path:
        return self._replay_folder(self.folder)

    def replay_offer(self) -> ReplayOffer:
        """How the replay cuts its batches."""
        return self.replay.offer

    def write_back(self, feedback: Feedback) -> None:
        """Tell the replay what was learned from its latest batch; one without priorities refuses it."""
        self.replay.write_back(feedback)

    def sample_windows(self, count: int, length: int, generator: torch.Generator) -> TensorDict:
        """`[count, length]` uniform windows of the training episodes, which leave training as it is."""
        return scaled(self.replay.sample_windows(count, length, generator), self.reward_scale)

    # --------------------------------------------------------------------------------------------------------- loaders
    def train_dataloader(self) -> DrawnBatches:
        return DrawnBatches(self._draw, self.updates_per_epoch)

    def _draw(self) -> TensorDict:
        """A batch, in which no sequence is older than another: recorded episodes stand in no order."""
        batch = scaled(self.replay.sample(), self.reward_scale)
        if "age" in batch.keys():  # noqa: SIM118 - a TensorDict
            batch["age"].zero_()
        return batch

    def val_dataloader(self) -> SameBatches | list[Any]:
        """Windows of the held-out episodes, the same ones every time, and shorter where these have fewer rows."""
        if not self.held_out_episodes:
            self._refuse_nothing_held_out()
            return []
        held_out, generator = self._held_out, torch.Generator().manual_seed(self.seed)
        length = min(self.sequence_length, len(held_out))
        windows = (held_out.sample_windows(self.batch_size, length, generator) for _ in range(self.validation_batches))
        return SameBatches([scaled(batch, self.reward_scale) for batch in windows])

    def test_dataloader(self) -> SameBatches | list[Any]:
        """The windows of validations."""
        return self.val_dataloader()

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return move(batch, device)

    # ----------------------------------------------------------------------------------------------------- exact resume
    def rank_state(self) -> dict[str, Any]:
        """State of this rank's sampling and priorities; its rows are those of the data."""
        return {"replay": self.replay.state_dict()}

    def load_rank_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `rank_state`, on the same rank.

        Raises:
            ValueError: the data or the replay are not those of the checkpoint.
        """
        if not self.replay.load_state_dict(state["replay"]):
            raise ValueError(
                f"the episodes of {self.info.name} are not those of the checkpoint; use the run's own data"
            )
