"""Datasets on disk to training batches: the offline LightningDataModule."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_warn
from tensordict import TensorDict
from torch import Tensor

from datamodules.base import repeated_batches
from datamodules.envs.make import plain_partial
from datamodules.envs.recorded_environment import Changes
from datamodules.recorded.seen import View
from datamodules.recorded_episodes import JOINED, RecordedEpisodes, both_references
from datamodules.replay.torchrl_parts import MakeSampler, gather
from datamodules.replay.transitions import ALL, Replay, Share, Unpack, check_device, move
from modules.arguments.changed import NORMALIZED, RUNNING
from modules.arguments.checks import check_choice, check_ranges, check_seed, check_shares, check_sizes
from modules.arguments.memory import check_memory
from modules.batch import by_name
from modules.functional.trajectory_weights import return_weights, wide_enough
from modules.trust import class_path

MEMORY_LIMIT = 2 << 30

ORDER = "the order of the rows goes on from the checkpoint"
"""The reason why a continued run cannot change how they are drawn."""

OBJECTS = ["sampler", "environment_arguments", "wrappers", "observation_space", "action_space"]
"""Arguments that may hold objects, which no checkpoint may name."""


class Draws(NamedTuple):
    """How training rows are drawn: arguments of the datamodule."""

    sampler: MakeSampler | None
    return_weighting: float | None
    prefetch: int

    def check(self) -> None:
        """Refuse numbers out of range, and what does not go together."""
        check_ranges(("prefetch", self.prefetch, 0, 1000))
        if self.return_weighting is not None:
            check_ranges(("return_weighting", self.return_weighting, 0.01, 1e6))
        if self.return_weighting is not None and self.sampler is not None:
            raise ValueError("sampler and return_weighting both choose the rows; leave one of them out")
        if self.prefetch and self.sampler is not None:
            raise ValueError(f"prefetch: {self.prefetch} does not go with another sampler; leave one of them out")
        if self.prefetch:
            rank_zero_warn(f"prefetch={self.prefetch}: batches arrive in an unrepeatable order; a resume is not exact")


class OfflineDataModule(RecordedEpisodes):
    """Transitions of one or more recorded datasets, sampled uniformly or by the returns of their episodes.

    The sources are converted once into a memory-mapped TensorDict in a cache folder. All processes of a distributed run
    draw the rows of an update together, each a share: what one process with `batch_size` times their number would draw.

    Args:
        source: file, folder or Minari id; several are joined when their spaces and environments agree.
        format: `auto`, or one of `hdf5`, `npz`, `minari`, `memmap`.
        batch_size: transitions per batch **on each rank**.
        minibatches: independent minibatches per batch, one for each seed of a population; a batch then has
            `minibatches * batch_size` rows.
        updates_per_epoch: batches that make one epoch, since sampling never ends.
        validation_fraction: share of the episodes that is held out, chosen by `seed`; 0 holds out nothing.
        validation_batches: batches per validation, the same ones every time.
        normalize_observation: announce mean and standard deviation of the training observations, which the agent
            normalises with and keeps in its checkpoint; batches stay in raw units.
        reward_scale: training rewards are `reward * reward_scale + reward_shift`; reported returns never change.
        reward_shift: see `reward_scale`.
        shuffle_rewards: permute the rewards over all transitions: a control from which nothing can be learned.
        truncation: treatment of the last step of an episode that was cut: `keep` it with its true next observation
            and bootstrap, or `drop` it as D4RL does. Files without that observation always drop it.
        storage: `memory` copies the rows, in every process, `memmap` leaves them on disk, `auto` copies up to 2 GiB
            in all processes together.
        storage_device: device that holds the copied rows, such as `cpu` or `cuda`.
        sampler: class path of one of TorchRL's samplers that draws the training rows, such as
            `torchrl.data.SamplerWithoutReplacement`; None for uniform draws with replacement. Validation keeps those.
        return_weighting: temperature of return weighting, such as 0.1: transitions are drawn in proportion to
            `exp(g / return_weighting)`, with the return `g` of their episode scaled to [0, 1] over the training
            episodes, for training and validation; None draws all alike. It is raised where less than a twentieth of the
            transitions would count. Statistics of observations and initial observations stay those of all episodes.
        prefetch: batches that a background thread prepares; a run can then not be repeated or resumed exactly, and each
            process draws for itself.
        initial_observations: add `initial_observation` `[B, ...]`, drawn independently, to every batch.
        download: allow Minari to download a dataset that is not on this machine.
        cache_dir: folder for conversions; default `$REVERIE_CACHE`, else `~/.cache/reverie/datasets`.
        environment: gymnasium id. A dataset that names another one is refused; one that names none gets this.
        environment_arguments: arguments of the environment, on top of those that the dataset names.
        wrappers: wrappers of the environment, innermost first, in place of those that the dataset names: classes, or in
            a config their class paths with arguments.
        observation_keys: parts of Dict observations that are joined to one vector, in this order; a slash stands
            between the keys of nested parts, and the key of a nested Dict alone means all of its parts. None for all
            parts of numbers, sorted by key. The environment of an evaluation is seen the same way.
        resize: side of the square that images are resized to, in the data and in the environment; None leaves them.
        observation_space: space of data without an environment; inferred, with a warning, if not given.
        action_space: see `observation_space`; inferred bounds are [-1, 1] where all actions fit, else the data's own.
        reference_min: return of a random policy, for normalised scores; overrides what the dataset says.
        reference_max: return of an expert; give both or neither.
        seed: seed of the split, of the sampling and of the reward permutation.

    Raises:
        ValueError: an argument is out of range, or a source is missing, unreadable or holds bad data.
    """

    fixed_on_resume: ClassVar[dict[str, str]] = {
        "seed": RUNNING,
        "normalize_observation": NORMALIZED,
        "observation_keys": JOINED,
        "sampler": ORDER,
        "return_weighting": ORDER,
        "storage_device": "the random numbers that choose the rows are those of its device",
    }

    def __init__(
        self,
        source: str | list[str],
        format: str = "auto",
        batch_size: int = 256,
        minibatches: int = 1,
        updates_per_epoch: int = 1000,
        validation_fraction: float = 0.05,
        validation_batches: int = 10,
        normalize_observation: bool = False,
        reward_scale: float = 1.0,
        reward_shift: float = 0.0,
        shuffle_rewards: bool = False,
        truncation: Literal["keep", "drop"] = "keep",
        storage: Literal["auto", "memory", "memmap"] = "auto",
        storage_device: str = "cpu",
        sampler: MakeSampler | None = None,
        return_weighting: float | None = None,
        prefetch: int = 0,
        initial_observations: bool = False,
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
        # Arguments as they are given; data are converted and opened when they are first asked for.
        self.references = both_references(reference_min, reference_max)
        self.sources = [source] if isinstance(source, str) else list(source)
        self.format = format
        self.truncation = truncation
        self.download = download
        self.batch_size = batch_size
        self.minibatches = minibatches
        self.updates_per_epoch = updates_per_epoch
        self.validation_fraction = validation_fraction
        self.validation_batches = validation_batches
        self.normalize_observation = normalize_observation
        self.shuffle_rewards = shuffle_rewards
        self.reward_scale = reward_scale
        self.reward_shift = reward_shift
        self.storage = storage
        self.storage_device = storage_device
        self.draws = Draws(plain_partial(sampler), return_weighting, prefetch)
        self.initial_observations = initial_observations
        self.cache_dir = cache_dir
        self._asked = Changes(environment, environment_arguments or {}, wrappers)
        self.view = View(observation_keys, resize)
        self.given_spaces = (observation_space, action_space)
        self.seed = seed
        self._check_arguments()

    def _check_arguments(self) -> None:
        self.hparams["sampler"] = class_path.describe(self.draws.sampler, "sampler")
        check_sizes(
            batch_size=self.batch_size,
            minibatches=self.minibatches,
            sources=len(self.sources),
            updates_per_epoch=self.updates_per_epoch,
            validation_batches=self.validation_batches,
        )
        check_seed(seed=self.seed)
        check_ranges(
            ("reward_scale", self.reward_scale, -1e12, 1e12),
            ("reward_shift", self.reward_shift, -1e12, 1e12),
        )
        check_choice("truncation", self.truncation, ("keep", "drop"))
        check_choice("storage", self.storage, ("auto", "memory", "memmap"))
        _check_storage(self.storage, self.storage_device)
        check_shares(validation_fraction=self.validation_fraction)
        self.draws.check()

    def __str__(self) -> str:
        """A name; Lightning's text would make every loader, and so convert the data, for a message about an error."""
        return f"{type(self).__name__}({', '.join(self.sources)})"

    # --------------------------------------------------------------------------------------------------------- loaders
    def setup(self, stage: str) -> None:
        assert self.spaces  # converts and checks before any worker or device is busy

    @functools.cached_property
    def _training(self) -> Replay:
        episodes = self._split[0]
        rows = self._rows(episodes)
        initial = None
        if self.initial_observations:
            initial = self.dataset.episodes["initial_observation"][torch.from_numpy(episodes)]
        if len(rows) == 0:
            raise ValueError(f"{self.info.name} has no training rows; hold fewer episodes out")
        length = self.updates_per_epoch
        repeat = repeated_batches(self.trainer, length)
        prefetch = 0 if repeat else self.draws.prefetch
        share = Share(*self._rank, self.minibatches) if self.same_on_all_ranks else None
        return self._replay(rows, initial, length, share, sampler=self.draws.sampler, prefetch=prefetch, repeat=repeat)

    @functools.cached_property
    def _temperature(self) -> float:
        """The temperature of return weighting, as wide as these data need it."""
        assert self.draws.return_weighting is not None
        lengths = self.dataset.episodes["length"].as_subclass(Tensor)[torch.from_numpy(self._split[0])]
        return wide_enough(self.draws.return_weighting, self.training_returns, lengths)

    def _weights(self, rows: Tensor) -> Tensor | None:
        """`[n]` weights of these rows by the returns of their episodes; None where all rows are alike."""
        if self.draws.return_weighting is None:
            return None
        returns, start = (self.dataset.episodes[name].as_subclass(Tensor) for name in ("return", "start"))
        weights = return_weights(returns, self._temperature, self.training_returns)
        return weights[torch.searchsorted(start, rows, right=True) - 1].to(self.storage_device)

    def _replay(
        self, rows: Tensor, initial: Tensor | None, length: int, share: Share | None = None, **options: Any
    ) -> Replay:
        """A replay of some rows, which processes draw from together, each a share, or each for itself."""
        data = {name: value.as_subclass(Tensor) for name, value in by_name(self.dataset.steps).items()}
        if self.shuffle_rewards:
            column = self.dataset.columns["next/reward"]
            order = np.random.default_rng(self.seed).permutation(len(data["row"]))
            data["next/reward"] = data["row"][:, column.start : column.stop][torch.from_numpy(order)]
        # In memory where it fits or a device is asked for; otherwise rows are gathered from the files.
        row = sum(value[:1].nbytes for value in data.values())
        what = f"batches of batch_size {self.batch_size} for each of {self.minibatches} seeds"
        check_memory(what, (row + 8) * self.batch_size * self.minibatches)
        subset: Tensor | None = rows
        size = row * len(rows) * self._rank[1]
        if self.storage == "memory" or self.storage_device != "cpu" or (self.storage == "auto" and size < MEMORY_LIMIT):
            data = {key: gather(value, rows).to(self.storage_device) for key, value in data.items()}
            subset = None
        stored = TensorDict({key: value for key, value in data.items()}, [len(data["row"])])
        return Replay(
            stored,
            Unpack(self.dataset.columns, self.reward_scale, self.reward_shift),
            batch_size=self.batch_size * self.minibatches,
            length=length,
            seed=self.seed + (1000 * self._rank[0] if share is None else 0),
            rows=subset,
            share=share or ALL,
            initial=None if initial is None else initial.to(self.storage_device),
            weights=self._weights(rows),
            **options,
        )

    def check_sampler(self) -> None:
        """Refuse a sampler that cannot draw the rows, by a `ValueError`, before a run has written anything."""
        if self.draws.sampler is not None:
            with torch.random.fork_rng(devices=[]):  # training goes on with torch's own generator, which it may use
                self._replay(self._rows(self._split[0]), None, 1, sampler=self.draws.sampler)

    def train_dataloader(self) -> Replay:
        return self._training

    def val_dataloader(self) -> Replay | Sequence[Any]:
        episodes = self._split[1]
        rows = self._rows(episodes)
        if len(rows) == 0:
            self._refuse_nothing_held_out()
            return []
        initial = None
        if self.initial_observations:
            initial = self.dataset.episodes["initial_observation"][torch.from_numpy(episodes)]
        return self._replay(rows, initial, self.validation_batches, restart=True)

    def test_dataloader(self) -> Replay | Sequence[Any]:
        """The held-out episodes."""
        return self.val_dataloader()

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return move(batch, device)

    # ----------------------------------------------------------------------------------------------------- exact resume
    @property
    def same_on_all_ranks(self) -> bool:
        """Whether all processes draw together, so that any number of them goes on from the state of any one."""
        return not self.draws.prefetch

    def rank_state(self) -> dict[str, Any]:
        """State of the sampling; with it the next batch is the one that would have come."""
        return {"sampler": self._training.state_dict()}

    def load_rank_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `rank_state`, on the same rank."""
        self._training.load_state_dict(state["sampler"])


def _check_storage(storage: str, device: str) -> None:
    if storage == "memmap" and device != "cpu":
        raise ValueError(f"storage: memmap stays on disk and cannot be on storage_device: {device}")
    check_device(device)
