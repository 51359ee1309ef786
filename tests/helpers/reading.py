"""The tiny dataset read back: rows by field, and what the card notes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tiny_dataset import Arrays

from datamodules.recorded.conversion import convert
from datamodules.recorded.converted import Converted


def column(dataset: Converted, name: str) -> np.ndarray:
    place = dataset.columns[name]
    return dataset.steps["row"].numpy()[:, place.start : place.stop]


def with_next(arrays: Arrays) -> Arrays:
    """The tiny dataset with `next_observations` in place of the fields of episodes."""
    ends = np.cumsum(arrays.pop("episode_lengths")) - 1
    following = np.roll(arrays["observations"], -1, 0)
    following[ends] = arrays.pop("final_observations")
    return arrays | {"next_observations": following}


def read(tmp_path: Path, arrays: Arrays, **options: Any) -> Converted:
    np.savez(tmp_path / "a.npz", **arrays)
    return convert([tmp_path / "a.npz"], cache_dir=tmp_path / "cache", **options)


def notes(dataset: Converted) -> str:
    return "\n".join(dataset.metadata["notes"])
