"""Reader of Minari datasets on this machine, in any of Minari's storage formats (HDF5, Arrow, Parquet)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import minari
import numpy as np
from minari.dataset.minari_storage import MinariStorage

from datamodules.record import Chunk, Record

CHUNK_STEPS = 65_536
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


def read_minari(path: Path) -> Record:
    """Describe a Minari dataset by its folder; steps are streamed episode by episode.

    Raises:
        ValueError: the folder is no Minari dataset, was written by a version that cannot be read, or is damaged.
    """
    folder = payload(path)
    if folder is None:
        raise ValueError(f"{path} is no Minari dataset: it has no metadata.json")
    try:
        metadata = json.loads((folder / "metadata.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder / 'metadata.json'} is truncated or damaged: {error}") from error
    version = metadata.get("minari_version")
    if version not in minari.supported_dataset_versions:
        raise ValueError(
            f"{path} was written by Minari {version}; the installed Minari {minari.__version__} reads "
            f"{', '.join(sorted(minari.supported_dataset_versions))}. Record it again, or install the Minari it needs"
        )
    if not metadata.get("total_steps"):
        raise ValueError(f"{path}: the dataset is empty (total_steps is {metadata.get('total_steps', 'missing')})")
    try:
        storage = MinariStorage.read(folder)
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} cannot be opened by Minari {minari.__version__}: {error}") from error
    return Record(
        name=metadata.get("dataset_id", path.name),
        location=str(path),
        format="minari",
        chunks=lambda: _chunks(path, storage, metadata["total_episodes"]),
        steps=metadata["total_steps"],
        environment=json.loads(metadata["env_spec"])["id"] if metadata.get("env_spec") else None,
        observation_space=storage.observation_space,
        action_space=storage.action_space,
        reference_min=metadata.get("ref_min_score"),
        reference_max=metadata.get("ref_max_score"),
    )


def _chunks(path: Path, storage: MinariStorage, episodes: int) -> Iterator[Chunk]:
    pending: list[Chunk] = []
    for index in range(episodes):
        pending.append(_episode(path, storage, index))
        if sum(len(chunk.reward) for chunk in pending) >= CHUNK_STEPS or index == episodes - 1:
            yield Chunk(*(np.concatenate(parts) for parts in zip(*pending, strict=True)))
            pending = []


def _episode(path: Path, storage: MinariStorage, index: int) -> Chunk:
    """One whole episode, with the true last observation at its end.

    Raises:
        ValueError: the episode cannot be read, or its fields are missing or of different lengths.
    """
    try:
        announced = next(iter(storage.get_episode_metadata([index])))["total_steps"]
        fields: dict[str, Any] = dict(next(iter(storage.get_episodes([index]))))
    except (OSError, KeyError, ValueError, StopIteration) as error:
        raise ValueError(
            f"{path}: episode {index} cannot be read; truncated, or a field is missing: {error}"
        ) from error
    observations = np.asarray(fields["observations"])
    steps = len(observations) - 1
    if steps != announced:
        raise ValueError(
            f"{path}: episode {index} announces {announced} steps, but observations has {steps + 1} rows "
            f"instead of {announced + 1}"
        )
    for name in EPISODE_FIELDS:
        if len(fields[name]) != steps:
            raise ValueError(
                f"{path}: episode {index}: lengths differ: {name} has {len(fields[name])} rows, "
                f"observations has {steps + 1} (one more than steps)"
            )
    terminated = np.asarray(fields["terminations"]).astype(bool)
    truncated = np.asarray(fields["truncations"]).astype(bool)
    inside = np.flatnonzero((terminated | truncated)[:-1])
    if len(inside):
        raise ValueError(f"{path}: episode {index} goes on after its end at step {inside[0]}")
    truncated[-1] |= not terminated[-1]  # recording simply stopped there: the episode was cut
    return Chunk(
        observations[:-1],
        np.asarray(fields["actions"]),
        np.asarray(fields["rewards"]),
        observations[1:],
        terminated,
        truncated,
        np.ones(steps, dtype=bool),
    )
