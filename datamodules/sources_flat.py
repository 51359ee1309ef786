"""Readers of flat files: D4RL-style HDF5, HDF5 with `final_observations`, and NPZ with the same fields.

Fields, all with one row per step: `observations` `[N, ...]`, `actions` `[N, A]`, `rewards` `[N]`, `terminals` `[N]`,
`timeouts` `[N]`. The observation after the last step of an episode comes from `next_observations` `[N, ...]`, or from
`final_observations` `[E, ...]`. A file with neither (plain D4RL) cannot know it, so its time-out rows are never
trained on; at a terminal row the row's own observation stands in, which no learner bootstraps from.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from datamodules.envs.recorded import from_meta
from datamodules.record import Chunk, Record

CHUNK_STEPS = 65_536
STEP_FIELDS = ("observations", "actions", "rewards", "terminals", "timeouts")
ALIASES = {
    "terminals": ("terminals", "terminations", "terminated"),
    "timeouts": ("timeouts", "truncations", "truncated"),
}


def read_hdf5(path: Path) -> Record:
    """Describe a flat HDF5 file; steps are streamed from it.

    Raises:
        ValueError: the file cannot be opened, or fields are missing or of different lengths.
    """
    try:
        with h5py.File(path, "r") as file:
            meta = json.loads(file.attrs["meta"]) if "meta" in file.attrs else {}
            arrays = {key: value for key, value in file.items() if isinstance(value, h5py.Dataset)}
            flat = FlatFields(path, arrays)
    except OSError as error:
        raise ValueError(f"{path} is not a readable HDF5 file (truncated, or of another format): {error}") from error
    return flat.record("hdf5" if meta or flat.final is not None else "d4rl", meta, lambda: _stream_hdf5(path, flat))


def _stream_hdf5(path: Path, flat: FlatFields) -> Iterator[Chunk]:
    try:
        with h5py.File(path, "r") as file:
            yield from flat.chunks(file)
    except OSError as error:
        raise ValueError(f"{path} cannot be read to its end; it is truncated or damaged: {error}") from error


def read_npz(path: Path) -> Record:
    """Describe an NPZ file. Pickled objects are refused and never loaded.

    Raises:
        ValueError: the file cannot be opened, holds a pickled object, or fields are missing or of different lengths.
    """
    arrays: dict[str, np.ndarray] = {}
    field = "the archive"
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds one bare array")
            for field in file.files:
                arrays[field] = file[field]
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a readable NPZ file (truncated, or of another format): {error}") from error
    except ValueError as error:
        if "pickle" in str(error).lower():
            raise ValueError(
                f"{path}: {field} holds pickled Python objects, which are refused because loading them runs code; "
                "save plain numeric arrays with np.savez"
            ) from error
        raise ValueError(f"{path}: {field} cannot be read: {error}") from error
    meta = json.loads(str(arrays.pop("meta"))) if "meta" in arrays else {}
    flat = FlatFields(path, arrays)
    return flat.record("npz", meta, lambda: flat.chunks(arrays))


class FlatFields:
    """The step fields of one flat file: checked once, then cut into chunks from the open file or from memory."""

    def __init__(self, path: Path, arrays: Mapping[str, Any]) -> None:
        self.path = path
        self.names = {
            key: next((name for name in ALIASES.get(key, (key,)) if name in arrays), None) for key in STEP_FIELDS
        }
        missing = [key for key, name in self.names.items() if name is None]
        if missing:
            raise ValueError(
                f"{path}: missing field {', '.join(missing)}; it has {', '.join(sorted(arrays)) or 'no arrays at all'}"
            )
        self.steps = len(arrays[self._name("observations")])
        if self.steps == 0:
            raise ValueError(f"{path}: the dataset is empty (observations has 0 rows)")
        self.row_shape = arrays[self._name("observations")].shape[1:]
        self.next_field = "next_observations" if "next_observations" in arrays else None
        per_step = [name for name in (*self.names.values(), self.next_field) if name is not None]
        for name in per_step:
            if len(arrays[name]) != self.steps:
                raise ValueError(
                    f"{path}: lengths differ: observations has {self.steps} rows, {name} has {len(arrays[name])}"
                )
            if arrays[name].dtype.kind not in "fiub":
                raise ValueError(f"{path}: {name} holds values of type {arrays[name].dtype}, which are no numbers")
        for key in ("rewards", "terminals", "timeouts"):
            if arrays[self._name(key)].size != self.steps:
                raise ValueError(
                    f"{path}: {key} has shape {arrays[self._name(key)].shape}, one value per row is needed"
                )
        self.terminated = np.asarray(arrays[self._name("terminals")][:]).reshape(self.steps).astype(bool)
        self.truncated = np.asarray(arrays[self._name("timeouts")][:]).reshape(self.steps).astype(bool)
        self.final = np.asarray(arrays["final_observations"][:]) if "final_observations" in arrays else None
        lengths = np.asarray(arrays["episode_lengths"][:]) if "episode_lengths" in arrays else None
        self.ends_known = self._close_episodes(lengths)

    def _name(self, key: str) -> str:
        name = self.names[key]
        assert name is not None
        return name

    def _close_episodes(self, lengths: np.ndarray | None) -> bool:
        """Mark the last row of each episode and check the per-episode fields; True if every end has its observation."""
        done = self.terminated | self.truncated
        if lengths is not None:
            if (lengths <= 0).any() or int(lengths.sum()) != self.steps:
                raise ValueError(
                    f"{self.path}: episode_lengths sums to {int(lengths.sum())} (all must be positive), "
                    f"observations has {self.steps} rows"
                )
            ends = np.zeros(self.steps, dtype=bool)
            ends[np.cumsum(lengths) - 1] = True
            inside = np.flatnonzero(done & ~ends)
            if len(inside):
                raise ValueError(
                    f"{self.path}: terminals or timeouts is set at row {inside[0]}, "
                    "which is inside an episode by episode_lengths"
                )
        else:
            ends = done.copy()
            ends[-1] = True
        self.truncated |= ends & ~done  # recorded data simply stop there: the episode was cut
        if self.final is not None and self.final.shape[1:] != self.row_shape:
            raise ValueError(
                f"{self.path}: final_observations has rows of shape {self.final.shape[1:]}, "
                f"observations of {self.row_shape}"
            )
        if self.final is not None and len(self.final) != int(ends.sum()):
            raise ValueError(
                f"{self.path}: lengths differ: final_observations has {len(self.final)} rows, "
                f"but there are {int(ends.sum())} episodes"
            )
        return self.final is not None or self.next_field is not None

    def record(self, layout: str, meta: Mapping[str, Any], chunks: Any) -> Record:
        """The description of this file; `meta` is the JSON that it may carry."""
        notes = []
        if not self.ends_known:
            lost = int((self.truncated & ~self.terminated).sum())
            notes.append(f"no next observation at time-outs in this file: {lost} time-out rows are dropped")
        return Record(
            name=meta.get("name", self.path.stem),
            location=str(self.path),
            format=layout,
            chunks=chunks,
            steps=self.steps,
            environment=from_meta(meta, f"{self.path}: meta"),
            reference_min=meta.get("ref_random"),
            reference_max=meta.get("ref_expert"),
            notes=notes,
        )

    def chunks(self, arrays: Mapping[str, Any]) -> Iterator[Chunk]:
        """Cut the steps into chunks, with the true next observation wherever the file holds it."""
        episode = 0
        for start in range(0, self.steps, CHUNK_STEPS):
            stop = min(start + CHUNK_STEPS, self.steps)
            terminated, truncated = self.terminated[start:stop], self.truncated[start:stop]
            ends = np.flatnonzero(terminated | truncated)
            rows = arrays[self._name("observations")][start : stop + 1]
            observation = rows[: stop - start]
            usable = np.ones(stop - start, dtype=bool)
            if self.next_field is not None:
                following = arrays[self.next_field][start:stop]
            else:
                # The file's last row has no successor, but it always ends an episode and is overwritten below.
                following = rows[1:] if len(rows) > stop - start else np.concatenate([rows[1:], rows[-1:]])
                following = np.array(following)
                if self.final is not None:
                    following[ends] = self.final[episode : episode + len(ends)]
                else:
                    following[ends] = observation[ends]
                    usable[ends] = terminated[ends]
            episode += len(ends)
            yield Chunk(
                _as_rows(observation),
                _as_rows(arrays[self._name("actions")][start:stop]),
                np.asarray(arrays[self._name("rewards")][start:stop]).reshape(stop - start),
                _as_rows(following),
                terminated,
                truncated,
                usable,
            )


def _as_rows(values: np.ndarray) -> np.ndarray:
    """One-dimensional real values as `[n, 1]`; integers stay `[n]`, they are discrete actions."""
    return values[:, None] if values.ndim == 1 and np.issubdtype(values.dtype, np.floating) else values
