"""The result of every reader of a dataset: a description, and the steps in order, a chunk at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from datamodules.envs.recorded_environment import Plain

CHUNK_STEPS = 65_536
CHUNK_BYTES = 1 << 26


def rows_per_chunk(row_bytes: int) -> int:
    """Steps that are read at a time: 65,536, or fewer where so many observations would take more than 64 MiB."""
    return max(1, min(CHUNK_STEPS, CHUNK_BYTES // max(1, row_bytes)))


Observations = np.ndarray | dict[str, np.ndarray]
"""`[n, ...]`, or of a Dict or Tuple its parts by key, with a slash between the keys of nested ones."""


class Chunk(NamedTuple):
    """`n` consecutive steps; an episode may continue in the next chunk.

    Attributes:
        observation: `[n, ...]` observation before the action; `Observations` by key until their parts are joined.
        action: `[n, A]` action taken, or `[n]` or `[n, 1]` for discrete actions.
        reward: `[n]` reward received after the action.
        next_observation: `[n, ...]` observation after the action; at a time-out the true last one.
        terminated: `[n]` bool, the episode ended in a terminal state.
        truncated: `[n]` bool, the episode was cut here; the last step of an episode has at least one of the two.
        usable: `[n]` bool, False where the source does not hold the observation after the action.
    """

    observation: Any
    action: np.ndarray
    reward: np.ndarray
    next_observation: Any
    terminated: np.ndarray
    truncated: np.ndarray
    usable: np.ndarray


@dataclass(frozen=True)
class Description:
    """One dataset as its file describes it, before conversion.

    Attributes:
        name: short name for people.
        location: file or folder that error messages name.
        format: name of the layout that was read.
        chunks: opens the source and yields every step once, in order.
        steps: number of steps that `chunks` will yield.
        environment: plain description of the environment that the file names, see
            `datamodules.envs.recorded_environment`, or None.
        recorded: environment that the steps are from, where the file names another one for evaluation.
        observation_space: space that the file holds, or None.
        action_space: space that the file holds, or None.
        reference_min: return of a random policy that the file holds, or None.
        reference_max: return of an expert that the file holds, or None.
        notes: facts that a user should know about this source.
    """

    name: str
    location: str
    format: str
    chunks: Callable[[], Iterator[Chunk]]
    steps: int
    environment: Plain | None = None
    recorded: Plain | None = None
    observation_space: gym.Space | None = None
    action_space: gym.Space | None = None
    reference_min: float | None = None
    reference_max: float | None = None
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Add a sentence for the card, once: a source may be read more than once."""
        if text not in self.notes:
            self.notes.append(text)
