"""The part of a datamodule that knows recorded episodes: the converted dataset, its spaces, and what is held out."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from datamodules.base import FromConfig
from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.recorded_environment import Changes
from datamodules.recorded.card import describe
from datamodules.recorded.conversion import convert
from datamodules.recorded.converted import Converted
from datamodules.recorded.dataset_info import DatasetInfo
from datamodules.recorded.seen import View
from datamodules.recorded.whole_episodes import episode_order
from datamodules.replay.torchrl_parts import gather
from modules.batch import Spaces
from modules.trust.names import short

STATISTICS_ROWS = 1 << 18
JOINED = "the networks have learned from these parts in their order"
"""The reason why a continued run cannot change `observation_keys`."""


class RecordedEpisodes(FromConfig):
    """Recorded datasets as one, converted and opened when they are first asked for.

    A subclass sets these attributes, which are arguments of `datamodules.offline.OfflineDataModule`.

    Attributes:
        sources: files, folders or Minari ids.
        format: `auto` or the name of a reader.
        truncation: treatment of the last step of an episode that was cut.
        download: allow Minari to download a dataset.
        cache_dir: folder for conversions, or None.
        view: parts of Dict observations that are joined, and the size of images.
        given_spaces: spaces of observations and of actions that are given by hand, or None each.
        references: returns of a random policy and of an expert given by hand, or None.
        normalize_observation: announce statistics of the training observations.
        validation_fraction: share of the episodes that is held out.
        seed: seed of the split.
    """

    sources: list[str]
    format: str
    truncation: Literal["keep", "drop"]
    download: bool
    cache_dir: str | None
    view: View = View()
    given_spaces: tuple[gym.Space | None, gym.Space | None]
    references: tuple[float, float] | None
    normalize_observation: bool
    validation_fraction: float
    seed: int
    _asked: Changes

    # ------------------------------------------------------------------------------------------- what is known before
    @functools.cached_property
    def dataset(self) -> Converted:
        """The converted dataset; the first access converts it."""
        dataset = convert(
            self.sources,
            format=self.format,
            truncation=self.truncation,
            environment=self._asked,
            observation_space=self.given_spaces[0],
            action_space=self.given_spaces[1],
            view=self.view,
            download=self.download,
            cache_dir=self.cache_dir,
        )
        joined = dataset.metadata["observation_keys"]
        if joined is not None and self.view.keys is None:
            rank_zero_warn(
                f"observations are {short(', '.join(joined), 200)}, joined in this order: all parts of numbers; "
                "observation_keys chooses some"
            )
        return dataset

    @functools.cached_property
    def info(self) -> DatasetInfo:
        """Identity, returns and references of the dataset."""
        spec = self.environment_spec
        return describe(self.dataset, self.references, None if spec is None else spec.to_plain())

    @functools.cached_property
    def environment_spec(self) -> EnvironmentSpec | None:
        """Makes the environment that the data were recorded in, seen as they are learned from.

        None where neither they nor the user name one.
        """
        metadata = self.dataset.metadata
        spec = self._asked.on_recorded(metadata["environment_spec"], metadata["name"])
        if spec is None:
            return None
        view = View(metadata["observation_keys"], metadata["resize"])
        return replace(spec, wrappers=(*spec.wrappers, *view.wrappers))

    @functools.cached_property
    def spaces(self) -> Spaces:
        """Spaces of the dataset, with observation statistics of the training split where they are asked for."""
        spaces = self.dataset.spaces
        assert self.info.transitions  # reads the description, which refuses another environment's dataset
        if not self.normalize_observation:
            return spaces
        if "observation" not in self.dataset.columns:
            raise ValueError(
                f"data.normalize_observation is for vectors of real numbers, not for {spaces.observation}: "
                "set it to false; bytes are scaled where they enter the networks"
            )
        mean, std = self._observation_statistics()
        return Spaces(spaces.observation, spaces.action, mean, std)

    def _observation_statistics(self) -> tuple[np.ndarray, np.ndarray]:
        column = self.dataset.columns["observation"]
        rows = self._rows(self._split[0])
        total = torch.zeros(column.stop - column.start, dtype=torch.float64)
        squares = torch.zeros_like(total)
        for part in rows.split(STATISTICS_ROWS):
            values = gather(self._row_tensor, part)[:, column.start : column.stop].double()
            total += values.sum(0)
            squares += values.square().sum(0)
        mean = total / len(rows)
        std = (squares / len(rows) - mean.square()).clamp_min(0).sqrt()
        std[std < 1e-6] = 1.0  # a constant feature stays near zero instead of exploding
        return mean.float().view(column.shape).numpy(), std.float().view(column.shape).numpy()

    # ---------------------------------------------------------------------------------------------------- who gets what
    @property
    def _row_tensor(self) -> Tensor:
        return self.dataset.steps["row"].as_subclass(Tensor)

    @functools.cached_property
    def _split(self) -> tuple[np.ndarray, np.ndarray]:
        """Episodes to train on and episodes held out, both in random order."""
        episodes = episode_order(self.seed, self.info.episodes)
        held_out = round(self.validation_fraction * len(episodes))
        if self.validation_fraction > 0 and held_out == 0:
            held_out = int(len(episodes) > 1)
            if not held_out:
                rank_zero_warn("the dataset has a single episode: nothing is held out for validation")
        return episodes[held_out:], episodes[:held_out]

    @property
    def held_out_episodes(self) -> int:
        return len(self._split[1])

    @property
    def training_returns(self) -> Tensor:
        return self._returns(self._split[0])

    def _returns(self, episodes: np.ndarray) -> Tensor:
        """`[n]` returns of these episodes."""
        return self.dataset.episodes["return"].as_subclass(Tensor)[torch.from_numpy(episodes)]

    def _refuse_nothing_held_out(self) -> None:
        """Refuse to validate or to test a checkpoint where no episode is held out.

        Raises:
            ValueError: the trainer does not train.
        """
        if self.trainer is not None and self.trainer.state.fn != TrainerFn.FITTING:
            raise ValueError(
                "no episode is held out; set data.validation_fraction above 0 as in the training run, or let the "
                "checkpoint play with `reverie evaluate`"
            )

    def _rows(self, episodes: np.ndarray) -> Tensor:
        """`[n]` rows of these episodes."""
        start = self.dataset.episodes["start"].numpy()[episodes]
        length = self.dataset.episodes["length"].numpy()[episodes]
        offset = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        return torch.from_numpy(np.repeat(start, length) + offset)


def both_references(reference_min: float | None, reference_max: float | None) -> tuple[float, float] | None:
    """References that the user gives, or None where he gives none."""
    if (reference_min is None) != (reference_max is None):
        raise ValueError("give both reference_min and reference_max, or neither")
    return None if reference_min is None or reference_max is None else (reference_min, reference_max)
