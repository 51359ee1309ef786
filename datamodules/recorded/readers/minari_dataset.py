"""Reader of Minari datasets on this machine, in any of Minari's storage formats (HDF5, Arrow, Parquet)."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
import numpy as np
from minari.dataset.minari_storage import METADATA_FILE_NAME, MinariStorage

from datamodules.envs.make import offered_spaces
from datamodules.envs.plain import leaf_values, leaves
from datamodules.envs.recorded_environment import Changes, Plain, from_gymnasium, label
from datamodules.recorded.checks import as_flags
from datamodules.recorded.description import Chunk, Description, Observations, rows_per_chunk
from datamodules.recorded.readers.minari_private import storage_kind
from modules.trust.files import finite, read_json_object
from modules.trust.names import short
from modules.trust.space_text import read_space

UNREADABLE = (OSError, LookupError, ValueError, TypeError, AttributeError, AssertionError, RuntimeError, StopIteration)
"""Errors that Minari's readers raise at damaged files, and at files that do not fit their spaces."""
MOST = 1 << 48
"""Steps that a dataset may announce."""
EPISODE_FIELDS = ("actions", "rewards", "terminations", "truncations")


def minari_folder(dataset_id: str) -> Path:
    """Where Minari keeps a dataset: `$MINARI_DATASETS_PATH`, else `~/.minari/datasets`; it need not exist."""
    root = os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets"
    return Path(root).expanduser() / dataset_id


def payload(path: Path) -> Path | None:
    """The folder that holds Minari's `metadata.json`: the dataset's `data`, or the folder itself; None if neither."""
    for folder in (path / "data", path):
        if (folder / "metadata.json").is_file():
            return folder
    return None


def read_minari(path: Path) -> Description:
    """Describe a Minari dataset by its folder; steps are streamed episode by episode.

    The environment is the one that the dataset names for evaluation, else the one that it was recorded in. Minari's own
    reader is not asked for it: that would make whatever a file names.

    Raises:
        ValueError: the folder is no Minari dataset, was written by a version that cannot be read, or is damaged.
    """
    folder = payload(path)
    if folder is None:
        raise ValueError(f"{path} is no Minari dataset: it has no metadata.json")
    # All that the metadata say is checked here, before Minari reads a step.
    file = folder / METADATA_FILE_NAME
    metadata = read_metadata(file)
    environment, recorded, notes = _environments(metadata, file)
    spaces = _spaces(metadata, file, environment)
    name = metadata.get("dataset_id") or path.name
    if not isinstance(name, str):
        raise ValueError(f"{file}: dataset_id must be a name, got {short(name)}")
    references = [metadata.get(key) for key in ("ref_min_score", "ref_max_score")]
    for key, score in zip(("ref_min_score", "ref_max_score"), references, strict=True):
        if score is not None and not finite(score):
            raise ValueError(f"{file}: {key} must be a number, got {short(score)}")
    # The steps are read by Minari's storage alone.
    try:
        kind = storage_kind(metadata.get("data_format"))
        storage = kind(folder, *spaces, jpeg_encoding=bool(metadata.get("jpeg_encoding", True)))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be opened by Minari {minari.__version__}: {short(str(error), 200)}") from error
    return Description(
        name=name,
        location=str(path),
        format="minari",
        chunks=lambda: _chunks(path, storage, metadata["total_episodes"], spaces[0]),
        steps=metadata["total_steps"],
        environment=environment,
        recorded=recorded,
        observation_space=spaces[0],
        action_space=spaces[1],
        reference_min=references[0],
        reference_max=references[1],
        notes=notes,
    )


def read_metadata(file: Path) -> dict[str, Any]:
    """A dataset's `metadata.json`, with its version and its sizes checked.

    Raises:
        ValueError: it is no readable JSON object, is larger than 64 MiB, is of a version that cannot be read, or names
            no steps or episodes.
    """
    metadata = read_json_object(file)
    version = metadata.get("minari_version")
    if not isinstance(version, str) or version not in minari.supported_dataset_versions:
        raise ValueError(
            f"{file} was written by Minari {short(version)}; the installed Minari {minari.__version__} reads "
            f"{', '.join(sorted(minari.supported_dataset_versions))}. Record it again, or install the Minari it needs"
        )
    for key in ("total_steps", "total_episodes"):
        if type(metadata.get(key, 0)) is not int or metadata.get(key, 0) > MOST:
            raise ValueError(f"{file}: {key} must be a whole number, got {short(metadata[key])}")
        if metadata.get(key, 0) < 1:
            raise ValueError(f"{file}: the dataset is empty ({key} is {short(metadata.get(key, 'missing'))})")
    return metadata


def _environments(metadata: dict[str, Any], file: Path) -> tuple[Plain | None, Plain | None, list[str]]:
    """The environment to evaluate in, the one that the steps are from if it is another, and notes."""
    found = {
        key: from_gymnasium(metadata[key], f"{file}: {key}")
        for key in ("eval_env_spec", "env_spec")
        if metadata.get(key) is not None
    }
    if not found:
        return None, None, []
    environment, notes = next(iter(found.values()))
    recorded, _ = found.get("env_spec", (environment, []))
    if recorded == environment:
        return environment, None, notes
    return environment, recorded, [*notes, f"recorded in {label(recorded)}: the returns of the data are of that one"]


def _spaces(metadata: dict[str, Any], file: Path, environment: Plain | None) -> tuple[gym.Space, gym.Space]:
    """The spaces that the dataset holds, else those of its environment."""
    observation, action = (_space(metadata.get(key), f"{file}: {key}") for key in ("observation_space", "action_space"))
    if observation is None or action is None:
        spec = Changes().on_recorded(environment, str(file))
        if spec is None:
            raise ValueError(f"{file} names neither its spaces nor an environment that has them")
        offered = offered_spaces(spec.bare())
        observation = offered.observation if observation is None else observation
        action = offered.action if action is None else action
    return observation, action


def _space(text: object, where: str) -> gym.Space | None:
    """A space that Minari wrote as JSON, or None where there is none."""
    if text is None:
        return None
    try:
        return read_space(text)
    except ValueError as error:
        raise ValueError(f"{where} describes no space: {error}") from error


def _chunks(path: Path, storage: MinariStorage, episodes: int, space: gym.Space) -> Iterator[Chunk]:
    most = rows_per_chunk(sum(math.prod(part.shape or ()) * np.dtype(part.dtype).itemsize for _, part in leaves(space)))
    pending: list[Chunk] = []
    for index in range(episodes):
        pending.append(_episode(path, storage, index, space))
        if sum(len(chunk.reward) for chunk in pending) >= most or index == episodes - 1:
            try:
                joined = Chunk(*(_behind_each_other(parts) for parts in zip(*pending, strict=True)))
            except ValueError as error:
                raise ValueError(
                    f"{path}: rows of the episodes up to {index} differ in shape: {short(str(error), 200)}"
                ) from error
            yield joined
            pending = []


def _behind_each_other(parts: Sequence[Any]) -> Any:
    """Arrays, or arrays by key, as one along their first axis."""
    if isinstance(parts[0], dict):
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return np.concatenate(parts)


def _observed(space: gym.Space, observations: Any) -> Observations:
    """Observations as they are, or the parts of a Dict or Tuple by key."""
    if not isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        return np.atleast_1d(observations)
    return {key: np.atleast_1d(values) for key, values in leaf_values(space, observations)}


def _episode(path: Path, storage: MinariStorage, index: int, space: gym.Space) -> Chunk:
    """One whole episode, with the true last observation at its end.

    Raises:
        ValueError: the episode cannot be read, or its fields are missing or of different lengths.
    """
    try:
        announced = operator.index(next(iter(storage.get_episode_metadata([index])))["total_steps"])
        read = dict(next(iter(storage.get_episodes([index]))))
        observed = _observed(space, read["observations"])
        fields = {name: np.atleast_1d(read[name]) for name in EPISODE_FIELDS}
    except UNREADABLE as error:
        raise ValueError(
            f"{path}: episode {index} cannot be read; truncated, or a field is missing: {short(str(error), 200)}"
        ) from error
    # Every field is measured against the observations, of which an episode has one more than steps.
    parts = observed if isinstance(observed, dict) else {"": observed}
    for key, values in parts.items():
        name, rows = "/".join(["observations", *[key] * bool(key)]), len(values)
        if rows < 2:
            raise ValueError(f"{path}: episode {index} has no steps: {name} has {rows} rows")
        if rows != announced + 1:
            raise ValueError(
                f"{path}: episode {index} announces {announced} steps, but {name} has {rows} rows "
                f"instead of {announced + 1}"
            )
    steps = announced
    for name in EPISODE_FIELDS:
        if len(fields[name]) != steps:
            raise ValueError(
                f"{path}: episode {index}: lengths differ: {name} has {len(fields[name])} rows, "
                f"observations has {steps + 1} (one more than steps)"
            )
    # An end inside would join two episodes: the return and the start of the second would be lost.
    terminated, truncated = (
        as_flags(fields[name], f"{path}: episode {index}", name) for name in ("terminations", "truncations")
    )
    inside = np.flatnonzero((terminated | truncated)[:-1])
    if len(inside):
        raise ValueError(f"{path}: episode {index} goes on after its end at step {inside[0]}")
    truncated[-1] |= not terminated[-1]  # recording simply stopped there: the episode was cut
    before, after = ({key: values[rows] for key, values in parts.items()} for rows in (slice(-1), slice(1, None)))
    return Chunk(
        before if isinstance(observed, dict) else before[""],
        fields["actions"],
        fields["rewards"],
        after if isinstance(observed, dict) else after[""],
        terminated,
        truncated,
        np.ones(steps, dtype=bool),
    )
