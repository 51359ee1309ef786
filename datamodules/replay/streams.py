"""The base of every replay of streams of experience, as the datamodule that fills it sees it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from tensordict import TensorDict, TensorDictBase

from datamodules.replay.memory_mapped_rows import Field, field_bytes
from modules.arguments.memory import check_memory
from modules.contracts import Feedback, ReplayOffer

OBSERVATION, STORED = "observation", "stored"

ObservationFields = Field | Mapping[str, Field]
"""Kind of an observation, or of each of its keys."""


@dataclass(frozen=True)
class ReplaySettings:
    """Settings that a replay gets from the datamodule that fills it; its own arguments come from the configuration.

    Attributes:
        folder: folder for the files.
        observation: kind of the observation, or of each of its keys.
        action: kind of the action.
        streams: `N`.
        capacity: rows of each stream that can be sampled; the oldest ones are dropped.
        margin: rows of each stream that can be written after a checkpoint without a trace in it.
        batch_size: size `B` of a batch.
        length: rows that are learned from in one piece, `T`.
        seed: seed of the batches.
        stored_width: width `W` of what is kept of the agent's state with every row; 0 for nothing.
    """

    folder: Path
    observation: ObservationFields
    action: Field
    streams: int
    capacity: int
    margin: int
    batch_size: int
    length: int
    seed: int = 0
    stored_width: int = 0

    def row_fields(self) -> dict[str, Field]:
        """Fields of a row by name, with a slash between keys."""
        parts: Mapping[str, Field] = {}
        if isinstance(self.observation, Field):
            parts = {OBSERVATION: self.observation}
        else:
            parts = {f"{OBSERVATION}/{key}": field for key, field in self.observation.items()}
        flags = dict.fromkeys(("is_first", "terminated", "truncated"), Field((), torch.bool))
        stored = {STORED: Field((self.stored_width,), torch.float32)} if self.stored_width else {}
        reward = Field((), torch.float32)
        return {**parts, "previous_action": self.action, "reward": reward, **flags, **stored}

    def check_batch(self, chunk: int = 0) -> None:
        """Refuse batches, and states of the agent, that do not fit into memory.

        Args:
            chunk: rows of each stream that are collected at once.

        Raises:
            ValueError: it says how much would be needed.
        """
        states = f"{self.stored_width:,} numbers of the agent's state with each row of {self.streams} streams"
        smaller = "make the agent's memory smaller, such as its rows or their width, or lower data.environments"
        check_memory(states, 2 * 4 * self.stored_width * chunk * self.streams, smaller)  # collected, and being written
        row = sum(field_bytes(field) for field in self.row_fields().values())
        batch = f"batches of batch_size {self.batch_size} and sequence_length {self.length}"
        check_memory(batch, row * self.batch_size * self.length)

    def check_capacity(self, different: int | None) -> None:
        """Refuse a replay of which every batch would hold some sequences twice, however full it is.

        Args:
            different: see `StreamReplay.different`.

        Raises:
            ValueError: it says which size of a batch would do.
        """
        if different is not None and different < self.batch_size:
            what = "transitions" if self.length == 2 else f"sequences of {self.length} rows"
            raise ValueError(
                f"capacity: {self.capacity} rows of each of {self.streams} environments hold {different} different "
                f"{what}, fewer than the {self.batch_size} of one batch: raise data.capacity, or lower "
                f"data.batch_size to {different}"
            )


class StreamReplay(ABC):
    """Rows of `N` parallel streams, written together, of which training batches are drawn.

    The rows are those of `modules.batch.SequenceBatch`, and `stored` `[W]` where the agent stores its state.

    Attributes:
        rows_needed: rows of each stream before the first batch.
    """

    rows_needed: int

    @abstractmethod
    def __len__(self) -> int:
        """Rows of each stream that are kept."""

    @abstractmethod
    def extend(self, rows: TensorDictBase) -> None:
        """Add `[t, N]` rows of all streams behind the newest ones."""

    @property
    def different(self) -> int | None:
        """Number of different sequences that it can hold; None where it does not say."""
        return None

    @abstractmethod
    def sample(self) -> TensorDict:
        """A training batch."""

    @abstractmethod
    def sample_windows(self, count: int, length: int, generator: torch.Generator) -> TensorDict:
        """`[count, length]` windows of consecutive rows, which leave the training batches as they are.

        Raises:
            ValueError: there are not enough rows yet.
        """

    @property
    def offer(self) -> ReplayOffer:
        """How batches are cut, for the agent that learns from them."""
        return ReplayOffer(self.rows_needed)

    def write_back(self, feedback: Feedback) -> None:
        """Tell what was learned from a batch, where a replay draws by it.

        Raises:
            ValueError: this replay has no priorities.
        """
        raise ValueError(
            f"{type(self).__name__} has no priorities to write back to; set replay to "
            "datamodules.replay.prioritized.PrioritizedReplay"
        )

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """The entries of a checkpoint; the rows themselves stay in their folder, on disk."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Continue with the rows of a checkpoint.

        Returns:
            Whether these are exactly its rows. If not, the replay holds the newest rows of the folder, or none.

        Raises:
            ValueError: the checkpoint's replay is of another layout.
        """


class MakeReplay(Protocol):
    """Makes a replay; its own arguments come from the configuration."""

    def __call__(self, settings: ReplaySettings, /) -> StreamReplay:
        """A replay."""


def check_rows(counts: Mapping[str, int], streams: int, length: int) -> None:
    """Refuse numbers of rows, by the name of their argument, that are less than one sequence of each stream.

    Raises:
        ValueError: one is.
    """
    for name, value in counts.items():
        if value // streams < length:
            raise ValueError(
                f"{name}: {value} steps are {value // streams} for each of {streams} environments, less than one "
                f"sequence of {length}; {name} must be at least {streams * length}"
            )
