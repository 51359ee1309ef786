"""The recorded episodes that a run begins with whose agent then plays by itself."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

import gymnasium as gym
import numpy as np
from pytorch_lightning.utilities import rank_zero_warn

from datamodules.envs.joined import JoinKeys
from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.recorded_environment import Changes, label, same_environment
from datamodules.recorded.card import describe
from datamodules.recorded.conversion import convert
from datamodules.recorded.converted import METADATA, Converted
from datamodules.recorded.dataset_info import DatasetInfo
from datamodules.recorded.replayed import RecordedStreams, check_replay, fill, fresh_state
from datamodules.recorded.seen import View, last_view
from datamodules.recorded.sources import open_source, source_path
from datamodules.replay.buffered import BufferedReplay
from modules.batch import Spaces, is_image
from modules.same_spaces import check_same_spaces
from modules.trust.names import cut


class FirstRows:
    """Recorded datasets as the first rows of the replay of a run.

    Args:
        sources: file, folder or Minari id, or several, of any kind that an offline run takes.
        environment: environment that the run plays in.
    """

    def __init__(self, sources: str | Sequence[str], environment: EnvironmentSpec) -> None:
        self.sources = [sources] if isinstance(sources, str) else sources
        self.environment = environment

    @functools.cached_property
    def dataset(self) -> Converted:
        """The converted dataset, seen as the environment is; data that name no spaces have those of the environment.

        Raises:
            ValueError: a source is missing or bad, or has parts of observations that the environment does not join.
        """
        environment, view = self._seen
        asked = Changes(environment.id, environment.arguments, environment.wrappers)
        dataset = convert(self.sources, environment=asked, view=view)
        parts, known = dataset.metadata["observation_keys"], self._joined_keys
        # A conversion of these arguments joins them as the environment does; another one may have another order.
        same = view.keys is not None or known == parts or (known == [] and parts == sorted(parts or []))
        if parts is not None and not same:
            wrapper = f"{{class_path: {JoinKeys.__module__}.JoinKeys, init_args: {{keys: [{', '.join(parts)}]}}}}"
            raise ValueError(
                f"start_from: the observations of {dataset.metadata['name']} are joined from parts, those of the run "
                f"not in this way; let --data.wrappers end with {cut(wrapper, 250)}"
            )
        return dataset

    @functools.cached_property
    def _seen(self) -> tuple[EnvironmentSpec, View]:
        """The environment as the data were recorded in it, and how its observations are seen in the run.

        What the last wrappers do to observations is done to the data where these are as the environment itself gives
        them: parts, or images of any size.
        """
        view, count = last_view(self.environment.wrappers)
        path = source_path(self.sources[0])
        recorded = None if (path / METADATA).is_file() else open_source(path).observation_space
        has_parts = isinstance(recorded, gym.spaces.Dict | gym.spaces.Tuple)
        if recorded is None or not (has_parts or (self._joined_keys is None and is_image(recorded))):
            return self.environment, View()
        wrappers = self.environment.wrappers
        return replace(self.environment, wrappers=wrappers[: len(wrappers) - count]), view

    @property
    def _joined_keys(self) -> Sequence[str] | None:
        """Keys of the parts that the last wrappers join; [] for all of numbers, None where they join none."""
        wrappers = self.environment.wrappers
        last = wrappers[len(wrappers) - last_view(wrappers)[1] :]
        joining = [wrapper for wrapper in last if getattr(wrapper, "func", wrapper) is JoinKeys]
        return (getattr(joining[0], "keywords", {}).get("keys") or []) if joining else None

    @functools.cached_property
    def info(self) -> DatasetInfo:
        """Identity, returns and references of the dataset."""
        return describe(self.dataset, None, self.environment.to_plain())

    def check(self, spaces: Spaces, capacity: int) -> None:
        """Refuse data that do not fit; warn of those of another form of the environment.

        Args:
            spaces: spaces of the environment.
            capacity: rows of the replays of all processes together.

        Raises:
            ValueError: the data are of another environment or of other spaces, or are more rows than that.
        """
        name = self.dataset.metadata["name"]
        check_same_spaces(f"start_from: {name}", self.dataset.spaces, self.environment.id, spaces)
        rows = self.info.transitions + self.info.episodes
        if rows > capacity:
            raise ValueError(
                f"capacity: {capacity} rows are less than the {rows} of {name}, which start_from names; raise "
                f"data.capacity to {rows} and as many more as there are steps to keep"
            )
        recorded, played = self.dataset.metadata["environment_spec"], self._seen[0].to_plain()
        if recorded is not None and not same_environment(recorded, played):
            rank_zero_warn(f"start_from: {name} was recorded in {label(recorded)}, and the run plays {label(played)}")

    def fill(self, replay: BufferedReplay, agent: object, rank: int, world: int) -> None:
        """Write the share of a process into its empty replay: its episodes, dealt evenly to the environments' streams.

        Args:
            replay: replay of the process.
            agent: agent that learns.
            rank: index of the process.
            world: number of processes.

        Raises:
            ValueError: the replay cannot take them, or has too little room.
        """
        check_replay(replay, agent)
        episodes = np.arange(rank, self.info.episodes, world)
        fill(replay, RecordedStreams.of(self.dataset, episodes, replay.settings.streams), fresh_state(agent))
