"""The fields of flat files, HDF5 or NPZ: checked once, then cut into chunks.

Fields, all with one row per step: `observations` `[N, ...]`, `actions` `[N, A]`, `rewards` `[N]`, `terminals` `[N]`,
`timeouts` `[N]`. The observation after the last step of an episode comes from `next_observations` `[N, ...]`, or from
`final_observations` `[E, ...]`. A file with neither (plain D4RL) cannot know it, so its time-out rows are never
trained on; at a terminal row the row's own observation stands in, which no learner bootstraps from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.recorded.checks import as_flags, check_same_rows
from datamodules.recorded.description import Chunk, Description, rows_per_chunk
from datamodules.recorded.source_meta import Meta
from datamodules.recorded.unmarked_ends import cut_unmarked_ends
from modules.trust.names import short

STEP_FIELDS = ("observations", "actions", "rewards", "terminals", "timeouts")
ALIASES = {
    "terminals": ("terminals", "terminations", "terminated"),
    "timeouts": ("timeouts", "truncations", "truncated"),
}
OPTIONAL_FIELDS = ("next_observations", "final_observations", "episode_lengths")
FIELDS = {*STEP_FIELDS, *OPTIONAL_FIELDS, *(name for names in ALIASES.values() for name in names), "meta"}


class FlatFields:
    """The step fields of one flat file: checked once, then cut into chunks from the open file or from memory.

    Args:
        path: the file, for messages.
        arrays: its arrays by name; those without a meaning here are left alone.

    Raises:
        ValueError: a field is missing, holds no numbers, has no row per step, or contradicts another one.
    """

    def __init__(self, path: Path, arrays: Mapping[str, Any]) -> None:
        self.path = path
        self.names = {key: self._find(arrays, key) for key in STEP_FIELDS}
        missing = [key for key, name in self.names.items() if name is None]
        if missing:
            has = short(", ".join(sorted(arrays)), 200) or "no arrays at all"
            raise ValueError(f"{path}: missing field {', '.join(missing)}; it has {has}")
        optional = {name: name for name in OPTIONAL_FIELDS if name in arrays}
        for name in (*(self._name(key) for key in STEP_FIELDS), *optional):
            self._check_numbers(name, arrays[name])
        observations = arrays[self._name("observations")]
        self.steps = len(observations)
        self.row_shape = observations.shape[1:]
        self.dtype = observations.dtype
        if self.steps == 0:
            raise ValueError(f"{path}: the dataset is empty (observations has 0 rows)")
        self.next_field = optional.get("next_observations")
        self._check_lengths(arrays)
        self.terminated = self._flags(arrays, "terminals")
        self.truncated = self._flags(arrays, "timeouts")
        for name in optional.keys() & {"next_observations", "final_observations"}:
            check_same_rows(str(path), name, arrays[name], observations)
        self.final = np.asarray(arrays["final_observations"][:]) if "final_observations" in optional else None
        self.ends_known = self._close_episodes(self._episode_lengths(arrays) if "episode_lengths" in optional else None)

    def _find(self, arrays: Mapping[str, Any], key: str) -> str | None:
        """The name under which a field is stored; two names are one too many if they differ."""
        names = [name for name in ALIASES.get(key, (key,)) if name in arrays]
        for other in names[1:]:
            if not np.array_equal(np.asarray(arrays[names[0]]), np.asarray(arrays[other])):
                raise ValueError(f"{self.path}: {names[0]} and {other} mean the same and differ; keep one of them")
        return names[0] if names else None

    def _name(self, key: str) -> str:
        name = self.names[key]
        assert name is not None
        return name

    def _check_numbers(self, name: str, values: Any) -> None:
        if not values.shape:  # None for what HDF5 calls a null dataspace
            raise ValueError(f"{self.path}: {name} is a single value or nothing; it needs one row per step")
        if math.prod(values.shape[1:]) == 0:
            raise ValueError(f"{self.path}: {name} has rows of shape {values.shape[1:]}, which hold nothing")
        if values.dtype.kind not in "fiub":
            raise ValueError(
                f"{self.path}: {name} holds values of type {short(str(values.dtype))}, which are no real numbers"
            )

    def _check_lengths(self, arrays: Mapping[str, Any]) -> None:
        for name in (*self.names.values(), self.next_field):
            if name is not None and len(arrays[name]) != self.steps:
                raise ValueError(
                    f"{self.path}: lengths differ: observations has {self.steps} rows, {name} has {len(arrays[name])}"
                )
        for key in ("rewards", "terminals", "timeouts"):
            if arrays[self._name(key)].size != self.steps:
                raise ValueError(
                    f"{self.path}: {key} has shape {arrays[self._name(key)].shape}, one value per row is needed"
                )

    def _flags(self, arrays: Mapping[str, Any], key: str) -> np.ndarray:
        name = self._name(key)
        return as_flags(np.asarray(arrays[name][:]), str(self.path), name)

    def _episode_lengths(self, arrays: Mapping[str, Any]) -> np.ndarray:
        """`[E]` int64, at least 1 each, that sum to the number of steps."""
        lengths = np.asarray(arrays["episode_lengths"][:])
        whole = lengths.ndim == 1 and bool(((lengths >= 1) & (lengths <= self.steps) & (lengths % 1 == 0)).all())
        if not whole or int(lengths.astype(np.int64).sum()) != self.steps:
            with np.errstate(all="ignore"):
                total = lengths.sum()
            raise ValueError(
                f"{self.path}: episode_lengths sums to {total} (all must be whole and positive, in one "
                f"column), observations has {self.steps} rows"
            )
        return lengths.astype(np.int64)

    def _close_episodes(self, lengths: np.ndarray | None) -> bool:
        """Mark the last row of each episode and check the per-episode fields; True if every end has its observation."""
        done = self.terminated | self.truncated
        if lengths is not None:
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
        if self.final is not None and len(self.final) != int(ends.sum()):
            raise ValueError(
                f"{self.path}: lengths differ: final_observations has {len(self.final)} rows, "
                f"but there are {int(ends.sum())} episodes"
            )
        return self.final is not None or self.next_field is not None

    def description(self, layout: str, meta: Meta, arrays: Any) -> Description:
        """The description of this file.

        Args:
            layout: name of the format.
            meta: description that the file gives of itself.
            arrays: opens the arrays, as a context manager, whenever the steps are to be read.
        """
        notes: list[str] = []
        if not self.ends_known:
            lost = int((self.truncated & ~self.terminated).sum())
            notes.append(f"no next observation at time-outs in this file: {lost} time-out rows are dropped")

        def chunks() -> Iterator[Chunk]:
            with arrays() as opened:
                steps = self._chunks(opened)
                yield from steps if self.next_field is None else cut_unmarked_ends(steps, notes)

        return Description(
            name=meta.name or self.path.stem,
            location=str(self.path),
            format=layout,
            chunks=chunks,
            steps=self.steps,
            environment=meta.environment,
            reference_min=meta.reference_min,
            reference_max=meta.reference_max,
            notes=notes,
        )

    def _chunks(self, arrays: Mapping[str, Any]) -> Iterator[Chunk]:
        """Cut the steps into chunks, with the true next observation wherever the file holds it."""
        episode, size = 0, rows_per_chunk(math.prod(self.row_shape) * self.dtype.itemsize)
        for start in range(0, self.steps, size):
            stop = min(start + size, self.steps)
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
                observation,
                arrays[self._name("actions")][start:stop],
                np.asarray(arrays[self._name("rewards")][start:stop]).reshape(stop - start),
                following,
                terminated,
                truncated,
                usable,
            )
