"""The recorded episodes that a run begins with whose agent then plays by itself."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from pytorch_lightning.utilities import rank_zero_warn

from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.recorded_environment import Changes, label, same_environment
from datamodules.recorded.card import describe
from datamodules.recorded.conversion import convert
from datamodules.recorded.converted import Converted
from datamodules.recorded.dataset_info import DatasetInfo
from datamodules.recorded.replayed import RecordedStreams, check_replay, fill, fresh_state
from datamodules.replay.buffered import BufferedReplay
from modules.batch import Spaces
from modules.same_spaces import check_same_spaces


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
        """The converted dataset; data that name no spaces have those of the environment."""
        environment = self.environment
        return convert(self.sources, environment=Changes(environment.id, environment.arguments, environment.wrappers))

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
        recorded, played = self.dataset.metadata["environment_spec"], self.environment.to_plain()
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
        stored = fresh_state(agent)
        check_replay(replay, 0 if stored is None else len(stored))
        episodes = np.arange(rank, self.info.episodes, world)
        fill(replay, RecordedStreams.of(self.dataset, episodes, replay.settings.streams), stored)
