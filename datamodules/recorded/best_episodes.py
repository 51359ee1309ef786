"""The episodes of a dataset with the highest returns, written as a flat HDF5 file that every reader of those takes."""

from __future__ import annotations

import functools
import json
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from datamodules.envs.joined import JoinKeys
from datamodules.envs.make import offered_spaces
from datamodules.envs.plain import PlainObservations, plain_space
from datamodules.envs.recorded_environment import Changes, Plain
from datamodules.recorded.description import Chunk, Description
from datamodules.recorded.seen import Seen, View
from modules.arguments.memory import check_disk, readable, unwritten
from modules.trust.class_path import describe

SUFFIXES = (".h5", ".hdf5")


class Kept(NamedTuple):
    """The episodes that were written.

    Attributes:
        episodes: number of them.
        steps: their steps.
        mean_return: mean of their undiscounted returns.
        of: number of episodes of the source.
    """

    episodes: int
    steps: int
    mean_return: float
    of: int


def best_episodes(returns: np.ndarray, fraction: float) -> np.ndarray:
    """`[E]` bool: the share of episodes with the highest returns, at least one; of equal ones the first.

    Args:
        returns: `[E]` undiscounted returns.
        fraction: share, above 0 and at most 1.
    """
    count = max(1, round(fraction * len(returns)))
    best = np.zeros(len(returns), dtype=bool)
    best[np.argsort(-returns, kind="stable")[:count]] = True
    return best


def write_best_episodes(source: Description, output: Path, fraction: float, keys: Sequence[str] | None = None) -> Kept:
    """Write the best episodes of a source in their order; the file appears under its name when it is complete.

    It names the source's environment and references. Spaces are not in such a file: they are the environment's, or
    inferred anew. Observations of a source that has a space of them are written in plain form, their parts joined, and
    the environment is named with the wrapper that shows the same.

    Args:
        source: description of the whole dataset, which is read twice.
        output: file to write, with the ending .h5 or .hdf5; it must not exist.
        fraction: share of the episodes, above 0 and at most 1.
        keys: parts of Dict observations that are joined, in order; None for all of numbers.

    Raises:
        ValueError: an argument is out of range, a key is wrong, the file exists or has another ending, or the source is
            bad.
    """
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"fraction must lie in (0, 1], got {fraction}")
    if output.suffix not in SUFFIXES:
        raise ValueError(f"{output} must end in {' or '.join(SUFFIXES)}: it is written as HDF5")
    if output.exists() or output.is_symlink():
        raise ValueError(f"{output} exists already; remove it or choose another output")
    seen = None
    if source.observation_space is not None:
        seen = Seen(source.observation_space, View(keys), source.location)
    elif keys is not None:
        raise ValueError(f"{source.location}: observation_keys choose parts of a Dict of observations; leave them out")
    # First pass: returns of the episodes, and whether the observations after all their ends are known.
    rewards, ends, known, size = [], [], True, 0
    for chunk in source.chunks():
        rewards.append(np.asarray(chunk.reward, dtype=np.float64))
        ends.append(chunk.terminated | chunk.truncated)
        known = known and bool(chunk.usable.all())
        parts = chunk.observation.values() if isinstance(chunk.observation, dict) else (chunk.observation,)
        size += sum(part.nbytes for part in (*parts, chunk.action, chunk.reward))
    stops = np.flatnonzero(np.concatenate(ends)) + 1
    lengths = np.diff(stops, prepend=0)
    returns = np.add.reduceat(np.concatenate(rewards), stops - lengths)
    if not np.isfinite(returns).all():
        raise ValueError(f"{source.location}: episode {int(np.argmin(np.isfinite(returns)))} has no finite return")
    best = best_episodes(returns, fraction)
    # Second pass: their rows, written aside.
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.writing-") as aside:
        written = Path(aside) / output.name
        try:
            with h5py.File(written, "w") as file:
                _write(file, _kept_rows(source, seen, np.repeat(best, lengths)), known, output.parent)
                file["episode_lengths"] = lengths[best].astype(np.int32)
                file.attrs["meta"] = json.dumps(_meta(source, seen, fraction))
        except OSError as error:
            most = readable(size * lengths[best].sum() / lengths.sum())
            raise unwritten(output, error, f"up to {most}") from error
        os.replace(written, output)
    return Kept(int(best.sum()), int(lengths[best].sum()), float(returns[best].mean()), len(returns))


def _kept_rows(source: Description, seen: Seen | None, keep: np.ndarray) -> Iterator[Chunk]:
    row = 0
    for chunk in source.chunks():
        mine = keep[row : row + len(chunk.reward)]
        chunk = chunk if seen is None else seen.chunk(chunk, row, source.location)
        row += len(chunk.reward)
        if mine.any():
            yield Chunk(*(values[mine] for values in chunk))


def _write(file: h5py.File, chunks: Iterator[Chunk], known: bool, folder: Path) -> None:
    """Append the chunks; `known` says whether the observations after the ends of the episodes are written."""
    for chunk in chunks:
        ends = chunk.terminated | chunk.truncated
        fields = {
            "observations": chunk.observation,
            "actions": chunk.action,
            "rewards": chunk.reward,
            "terminals": chunk.terminated.astype(np.uint8),
            # An end is one of the two; where both were set the state is terminal.
            "timeouts": (chunk.truncated & ~chunk.terminated).astype(np.uint8),
        }
        if known:
            fields["final_observations"] = chunk.next_observation[ends]
        # On a full disk HDF5 ends the process, so that the room is checked before.
        check_disk(f"{file.filename}: free some space", sum(x.nbytes for x in fields.values()), folder, at_once=True)
        for name, values in fields.items():
            _append(file, name, np.asarray(values))


def _append(file: h5py.File, name: str, values: np.ndarray) -> None:
    if name not in file:
        rows = max(1, min(4096, (1 << 20) // max(1, values.itemsize * math.prod(values.shape[1:]))))
        shape = {
            "shape": (0, *values.shape[1:]),
            "maxshape": (None, *values.shape[1:]),
            "chunks": (rows, *values.shape[1:]),
        }
        file.create_dataset(name, dtype=values.dtype, compression="gzip", **shape)
    stored = file[name]
    stored.resize(len(stored) + len(values), axis=0)
    stored[len(stored) - len(values) :] = values


def _meta(source: Description, seen: Seen | None, fraction: float) -> dict[str, Any]:
    """The file's description of itself; what the source does not say is left out."""
    meta = {
        "name": f"{source.name}-best{100 * fraction:g}",
        "environment_spec": source.environment if seen is None else _shown(source, seen),
        "ref_random": source.reference_min,
        "ref_expert": source.reference_max,
    }
    return {key: value for key, value in meta.items() if value is not None}


def _shown(source: Description, seen: Seen) -> Plain | None:
    """The environment of the source in the wrapper through which its observations are those that are written."""
    if source.environment is None:
        return None
    wrapper: Plain | None = None
    if seen.view.keys is not None:
        wrapper = describe(functools.partial(JoinKeys, keys=list(seen.view.keys)), "wrappers")
    else:
        spec = Changes().on_recorded(source.environment, source.location)
        assert spec is not None
        if plain_space(offered_spaces(spec.bare()).observation)[1] is not None:
            wrapper = {**describe(PlainObservations, "wrappers"), "init_args": {}}
    if wrapper is None:
        return source.environment
    return {**source.environment, "wrappers": [*source.environment["wrappers"], wrapper]}
