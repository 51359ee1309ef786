"""Open a folder that `datamodules.recorded.conversion` wrote, here or elsewhere; nothing in it is believed unseen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict

from datamodules.envs.from_file import read_plain
from datamodules.recorded.memmap_files import batch_size, find_tensor
from datamodules.recorded.writer import Layout, as_torch
from datamodules.replay.transitions import Column
from modules.batch import Spaces, path_of
from modules.trust.files import read_json_object
from modules.trust.names import short

CONVERTER_VERSION = 5
METADATA = "dataset.json"
KINDS: dict[str, Any] = {
    "name": str,
    "format": str,
    "content_hash": str,
    "truncation": str,
    "spaces": str,
    "environment": str | None,
    "environment_spec": dict | None,
    "recorded_spec": dict | None,
    "observation_keys": list | None,
    "observation_parts": str | None,
    "resize": int | None,
    "reference_min": int | float | None,
    "reference_max": int | float | None,
    "notes": list,
    "terminals": int,
    "timeouts": int,
    "bytes": int,
}


@dataclass(frozen=True)
class Converted:
    """A converted dataset, opened: tensors are memory-mapped and read-only by convention.

    Attributes:
        folder: folder that holds it.
        steps: `[N]` rows.
        episodes: `[E]` episodes.
        columns: field name to its place in `steps["row"]`.
        spaces: observation and action space.
        metadata: the rest of `dataset.json`.
    """

    folder: Path
    steps: TensorDict
    episodes: TensorDict
    columns: dict[str, Column]
    spaces: Spaces
    metadata: dict[str, Any]


def open_converted(folder: Path) -> Converted:
    """Open a folder that `convert` wrote.

    Raises:
        ValueError: the folder is damaged or was written by another version of the converter.
    """
    metadata = read_json_object(folder / METADATA)
    if metadata.get("version") != CONVERTER_VERSION:
        raise ValueError(
            f"{folder} was written by another version of the converter; delete it and convert the original again"
        )
    try:
        return _open(folder, metadata)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, AssertionError, MemoryError) as error:
        raise ValueError(
            f"{folder} is a damaged conversion; delete it and run again: {short(str(error), 200)}"
        ) from error


def _open(folder: Path, metadata: dict[str, Any]) -> Converted:
    wrong = [name for name, kind in KINDS.items() if not isinstance(metadata[name], kind)]
    if wrong:
        raise ValueError(f"{METADATA} has the wrong type in {', '.join(wrong)}")
    described = metadata["environment_spec"]
    for key in ("environment_spec", "recorded_spec"):
        if metadata[key] is not None:
            read_plain(metadata[key], key)
    if metadata["environment"] != (None if described is None else described["id"]):
        raise ValueError("environment and environment_spec are not the same")
    if metadata["bytes"] != payload_bytes(folder):
        raise ValueError("files have another size than when it was written")
    spaces = Spaces.from_json(metadata["spaces"])
    layout = Layout.of(spaces)
    if metadata["columns"] != layout.to_plain():
        raise ValueError("its columns are not those of its spaces")
    steps = _tensors(folder / "steps", layout.files)
    episodes = _tensors(folder / "episodes", layout.episode_files)
    lengths, starts = episodes["length"].numpy(), episodes["start"].numpy()
    if (lengths < 0).any() or lengths.sum() != len(steps) or (starts != np.cumsum(lengths) - lengths).any():
        raise ValueError("its episodes are not those of its steps")
    return Converted(folder, steps, episodes, layout.columns, spaces, metadata)


def _tensors(folder: Path, layout: dict[str, tuple[np.dtype, tuple[int, ...]]]) -> TensorDict:
    """Tensors of these names, types and row shapes; each has as many rows as the folder says.

    Raises:
        ValueError: one is missing or of another kind.
    """
    rows = batch_size(folder)
    tensors: dict[Any, torch.Tensor] = {}
    for name, (dtype, shape) in layout.items():
        tensor = find_tensor(folder, name)
        if tensor is None or tuple(tensor.shape) != (*rows, *shape) or tensor.dtype != as_torch(dtype):
            raise ValueError(f"{folder / name} is not of the type and shape that its spaces need")
        tensors[path_of(name)] = tensor
    return TensorDict(tensors, rows)


def payload_bytes(folder: Path) -> int:
    """Bytes of all tensors in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*.memmap"))
