"""Steps to the files of a memory-mapped TensorDict, a chunk at a time."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import gymnasium as gym
import numpy as np
import torch
from tensordict import MemoryMappedTensor, TensorDict

from datamodules.record import Chunk
from modules.batch import Spaces


@dataclass(frozen=True)
class Column:
    """Where a field lies in the packed rows: `row[:, start:stop]`, reshaped to `[B, *shape]`."""

    start: int
    stop: int
    shape: tuple[int, ...]


class StepWriter:
    """Appends chunks to files; only rewards, flags and first observations are held in memory.

    Args:
        folder: folder to make.
        spaces: real-valued fields are packed into `row`, others get a file of their own.
    """

    def __init__(self, folder: Path, spaces: Spaces) -> None:
        (folder / "next").mkdir(parents=True)
        self.folder = folder
        self.columns: dict[str, Column] = {}
        self.separate: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}
        self.width = 0
        self._place("observation", spaces.observation)
        self._place("action", spaces.action)
        self._place("next/observation", spaces.observation)
        for name in ("next/reward", "next/terminated", "next/truncated"):
            self._pack(name, (1,))
        self.opened = ExitStack()
        self.files: dict[str, BinaryIO] = {
            name: self.opened.enter_context(open(folder / f"{name}.memmap", "wb"))  # noqa: SIM115
            for name in ("row", *self.separate)
        }
        self.seen = self.rows = self.terminals = self.timeouts = 0
        self.rewards: list[np.ndarray] = []
        self.ends: list[np.ndarray] = []
        self.kept: list[np.ndarray] = []
        self.initial: list[np.ndarray] = []
        self.at_start = True

    def _place(self, name: str, space: gym.Space) -> None:
        assert space.shape is not None
        if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
            self._pack(name, space.shape)
        else:
            dtype = np.dtype(np.int64) if isinstance(space, gym.spaces.Discrete) else np.dtype(space.dtype)
            self.separate[name] = (dtype, space.shape)

    def _pack(self, name: str, shape: tuple[int, ...]) -> None:
        size = int(np.prod(shape))
        self.columns[name] = Column(self.width, self.width + size, shape)
        self.width += size

    def append(self, chunk: Chunk, keep: np.ndarray) -> None:
        """Write the rows where `keep` `[n]` holds and count all of them."""
        fields = {
            "observation": chunk.observation,
            "action": chunk.action,
            "next/observation": chunk.next_observation,
            "next/reward": chunk.reward,
            "next/terminated": chunk.terminated,
            "next/truncated": chunk.truncated,
        }
        row = np.empty((int(keep.sum()), self.width), dtype=np.float32)
        for name, column in self.columns.items():
            row[:, column.start : column.stop] = fields[name][keep].reshape(len(row), column.stop - column.start)
        self.files["row"].write(row.tobytes())
        for name, (dtype, _) in self.separate.items():
            self.files[name].write(np.ascontiguousarray(fields[name][keep], dtype=dtype).tobytes())
        ends = chunk.terminated | chunk.truncated
        starts = np.concatenate([[self.at_start], ends[:-1]])
        self.initial.append(np.array(chunk.observation[starts]))
        self.at_start = bool(ends[-1])
        self.rewards.append(chunk.reward.astype(np.float64))
        self.ends.append(ends)
        self.kept.append(keep)
        self.seen += len(ends)
        self.rows += len(row)
        self.terminals += int(chunk.terminated.sum())
        self.timeouts += int((chunk.truncated & ~chunk.terminated).sum())

    def __enter__(self) -> StepWriter:
        return self

    def __exit__(self, *error: Any) -> None:
        self.opened.close()

    def describe(self) -> None:
        """Write the TensorDict's own description beside the files, which must be closed."""
        layout = {"row": (np.dtype(np.float32), (self.width,)), **self.separate}
        tensors = {
            tuple(name.split("/")): MemoryMappedTensor.from_filename(
                self.folder / f"{name}.memmap",
                dtype=torch.from_numpy(np.empty(0, dtype)).dtype,
                shape=(self.rows, *shape),
            )
            for name, (dtype, shape) in layout.items()
        }
        TensorDict(tensors, [self.rows]).memmap_(self.folder)

    def episodes(self) -> TensorDict:
        """`[E]` table of the episodes that were appended."""
        stops = np.flatnonzero(np.concatenate(self.ends)) + 1
        starts = np.concatenate([[0], stops[:-1]])
        kept = np.add.reduceat(np.concatenate(self.kept).astype(np.int64), starts)
        table = {
            "start": np.cumsum(kept) - kept,
            "length": kept,
            "steps": stops - starts,
            "return": np.add.reduceat(np.concatenate(self.rewards), starts),
            "initial_observation": np.concatenate(self.initial),
        }
        table["initial_observation"] = _as_stored(table["initial_observation"])
        return TensorDict({key: torch.from_numpy(value) for key, value in table.items()}, [len(stops)])


def _as_stored(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32) if np.issubdtype(values.dtype, np.floating) else values
