"""Steps to the files of a memory-mapped TensorDict, a chunk at a time."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import gymnasium as gym
import numpy as np
import torch
from tensordict import MemoryMappedTensor, TensorDict

from datamodules.recorded.checks import is_real
from datamodules.recorded.description import Chunk
from datamodules.replay.transitions import Column
from modules.batch import Spaces, path_of

Files = dict[str, tuple[np.dtype, tuple[int, ...]]]
"""Name of each file to the type and the shape `[...]` of one row in it."""


def as_torch(dtype: np.dtype) -> torch.dtype:
    """The type of torch that is the same as one of numpy."""
    return torch.from_numpy(np.empty(0, dtype)).dtype


@dataclass(frozen=True)
class Layout:
    """Which files hold the steps of some spaces: real numbers are packed into `row`, others get a file of their own.

    Attributes:
        columns: field name to its place in `row`.
        files: name of each file to the type and the shape `[...]` of one row in it.
        initial: type and shape of the first observation of an episode.
    """

    columns: dict[str, Column]
    files: Files
    initial: tuple[np.dtype, tuple[int, ...]]

    @classmethod
    def of(cls, spaces: Spaces) -> Layout:
        """Make the layout of steps with these spaces."""
        columns: dict[str, Column] = {}
        separate: Files = {}
        width = 0
        for name, space in (
            ("observation", spaces.observation),
            ("action", spaces.action),
            ("next/observation", spaces.observation),
            *((name, None) for name in ("next/reward", "next/terminated", "next/truncated")),
        ):
            shape = (1,) if space is None else space.shape
            assert shape is not None
            if space is None or is_real(space):
                columns[name] = Column(width, width + math.prod(shape), shape)
                width += math.prod(shape)
            else:
                dtype = np.dtype(np.int64) if isinstance(space, gym.spaces.Discrete) else np.dtype(space.dtype)
                separate[name] = (dtype, shape)
        row = (np.dtype(np.float32), (width,))
        assert spaces.observation.shape is not None
        initial = separate.get("observation", (np.dtype(np.float32), spaces.observation.shape))
        return cls(columns, {"row": row, **separate}, initial)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row in all files."""
        return _bytes(self.files)

    @property
    def episode_files(self) -> Files:
        """Files that hold the episodes, and the type and shape of one row in each."""
        numbers: Files = {name: (np.dtype(np.int64), ()) for name in ("start", "length", "steps")}
        return {**numbers, "return": (np.dtype(np.float64), ()), "initial_observation": self.initial}

    def size(self, rows: int, episodes: int) -> int:
        """Bytes of all files of so many rows and episodes, but for their descriptions."""
        return rows * self.row_bytes + episodes * _bytes(self.episode_files)

    def to_plain(self) -> dict[str, list[Any]]:
        """The columns in plain values, as JSON gives them back."""
        return {name: [c.start, c.stop, list(c.shape)] for name, c in self.columns.items()}


class StepWriter:
    """Appends chunks to files; only rewards, flags and first observations are held in memory.

    Args:
        folder: folder to make.
        spaces: spaces of the steps.
    """

    def __init__(self, folder: Path, spaces: Spaces) -> None:
        (folder / "next").mkdir(parents=True)
        self.folder = folder
        self.layout = Layout.of(spaces)
        self.opened = ExitStack()
        self.files: dict[str, BinaryIO] = {
            name: self.opened.enter_context(open(folder / f"{name}.memmap", "wb"))  # noqa: SIM115
            for name in self.layout.files
        }
        self.seen = 0
        self.rows = 0
        self.terminals = 0
        self.timeouts = 0
        self.rewards: list[np.ndarray] = []
        self.ends: list[np.ndarray] = []
        self.kept: list[np.ndarray] = []
        self.initial: list[np.ndarray] = []
        self.at_start = True

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
        kept = slice(None) if keep.all() else keep  # without a copy where all are kept, which is nearly always
        row = np.empty((int(keep.sum()), *self.layout.files["row"][1]), dtype=np.float32)
        for name, column in self.layout.columns.items():
            row[:, column.start : column.stop] = fields[name][kept].reshape(len(row), column.stop - column.start)
        for name, (dtype, _) in self.layout.files.items():
            values = row if name == "row" else np.ascontiguousarray(fields[name][kept], dtype=dtype)
            self.files[name].write(values.data)
        # Episodes are described by all their rows, also by those that are not written: returns stay whole.
        ends = chunk.terminated | chunk.truncated
        starts = np.concatenate([[self.at_start], ends[:-1]])
        self.initial.append(chunk.observation[starts].astype(self.layout.initial[0]))
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
        _describe(self.folder, self.rows, self.layout.files)

    def write_episodes(self, folder: Path) -> None:
        """Write the `[E]` table of the episodes that were appended to a new folder."""
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
        folder.mkdir()
        for name, (dtype, _) in self.layout.episode_files.items():
            values = table[name].astype(dtype, copy=False)
            (folder / f"{name}.memmap").write_bytes(values.tobytes())  # on a full disk a mapped file would be fatal
        _describe(folder, len(stops), self.layout.episode_files)


def _bytes(files: Files) -> int:
    """Bytes of one row in all of the files."""
    return sum(dtype.itemsize * math.prod(shape) for dtype, shape in files.values())


def _describe(folder: Path, rows: int, files: Files) -> None:
    """Write a TensorDict's own description beside its files."""
    tensors = {
        path_of(name): MemoryMappedTensor.from_filename(
            folder / f"{name}.memmap", dtype=as_torch(dtype), shape=(rows, *shape)
        )
        for name, (dtype, shape) in files.items()
    }
    TensorDict(tensors, [rows]).memmap_(folder)
