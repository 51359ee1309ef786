"""Reader of a memory-mapped TensorDict folder in TorchRL's TED layout, `[N]` steps or `[E, T]` trajectories.

What `split_trajectories` pads is told apart by the `mask` that it writes, and no step. Episodes end where a flag says
so, at the end of a trajectory, where the mask has a gap, and where `traj_ids` changes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from datamodules.recorded.checks import as_flags, check_same_rows
from datamodules.recorded.description import Chunk, Description, rows_per_chunk
from datamodules.recorded.memmap_files import batch_size, find_tensor, subfolders
from datamodules.recorded.unmarked_ends import cut_unmarked_ends
from modules.trust.names import short

FIELDS = ("observation", "action", "next/observation", "next/reward", "next/terminated", "next/truncated")


@dataclass(frozen=True)
class _Steps:
    """The fields of a folder with one batch dimension, `[N, ...]` each.

    Attributes:
        path: the folder, for messages.
        fields: the six of TED, and `next/done` where there is one.
        length: steps of one trajectory; it ends there whatever its flags say.
        mask: `[N]` bool, the row is a step and no padding, or None where all are.
        trajectory: `[N]` number of the trajectory, or None.
    """

    path: Path
    fields: dict[str, np.ndarray]
    length: int
    mask: np.ndarray | None
    trajectory: np.ndarray | None


def read_memmap(path: Path) -> Description:
    """Describe a folder that `TensorDict.memmap` wrote. Other fields than those needed, pickled ones too, are not read.

    Raises:
        ValueError: the folder is damaged, empty, or lacks a field.
    """
    # Fields that are needed, each with as many rows as the folder says.
    batch = batch_size(path)
    if len(batch) not in (1, 2):
        raise ValueError(f"{path}: batch size {list(batch)} is neither [N] nor [E, T]")
    found = {name: _rows(path, name, batch) for name in (*FIELDS, "next/done")}
    missing = [name for name in FIELDS if found[name] is None]
    if missing:
        raise ValueError(
            f"{path}: missing field {', '.join(missing)}; TorchRL's TED layout of plain tensors is needed, pickled "
            "ones are not read"
        )
    fields = {name: values for name, values in found.items() if values is not None}
    if math.prod(batch) == 0:
        raise ValueError(f"{path}: the dataset is empty (batch size {list(batch)})")
    for name, values in fields.items():
        if math.prod(values.shape[1:]) == 0:
            raise ValueError(f"{path}: {name} has rows of shape {values.shape[1:]}, which hold nothing")
    check_same_rows(str(path), "next/observation", fields["next/observation"], fields["observation"])
    if fields["next/reward"].size != math.prod(batch):
        raise ValueError(f"{path}: next/reward has rows of {fields['next/reward'].shape[1:]}, one value is needed")
    # A mask says which rows are padding, ids of trajectories where one ends.
    mask = _by_row(path, batch, "mask")
    steps = _Steps(
        path,
        fields,
        batch[-1],
        None if mask is None else as_flags(mask, str(path), "mask"),
        _by_row(path, batch, "traj_ids"),
    )
    count = math.prod(batch) if steps.mask is None else int(steps.mask.sum())
    if count == 0:
        raise ValueError(f"{path}: the dataset is empty: its mask says that all rows are padding")
    notes = [] if mask is None else [f"{math.prod(batch) - count:,} rows are padding by the mask, and left out"]
    return Description(
        name=path.name,
        location=str(path),
        format="memmap",
        chunks=lambda: cut_unmarked_ends(_chunks(steps), notes),
        steps=count,
        notes=notes,
    )


def _rows(path: Path, name: str, batch: tuple[int, ...]) -> np.ndarray | None:
    """A field as `[N, ...]`, from `[N, ...]` or `[E, T, ...]`.

    Raises:
        ValueError: it does not begin with the batch size.
    """
    tensor = find_tensor(path, name)
    if tensor is None:
        return None
    if tuple(tensor.shape[: len(batch)]) != batch:
        raise ValueError(f"{path}: {name} has shape {list(tensor.shape)}, the batch size is {list(batch)}")
    return tensor.as_subclass(torch.Tensor).numpy().reshape(math.prod(batch), *tensor.shape[len(batch) :])


def _by_row(path: Path, batch: tuple[int, ...], name: str) -> np.ndarray | None:
    """Entries that `split_trajectories` writes beside the steps: `[N]`, in the folder itself or in one within it.

    Raises:
        ValueError: there are several that differ.
    """
    places = [name, *(f"{folder}/{name}" for folder in subfolders(path) if folder != "next")]
    found: list[np.ndarray] = []
    for place in places:
        tensor = find_tensor(path, place)
        # A mask of another shape is not one of rows, but of actions, say.
        if tensor is not None and tuple(tensor.shape) in (batch, (*batch, 1)):
            found.append(tensor.as_subclass(torch.Tensor).numpy().reshape(-1))
    if any(not np.array_equal(found[0], other) for other in found[1:]):
        raise ValueError(f"{path}: {short(' and '.join(places), 200)} differ; keep one of them")
    return found[0] if found else None


def _chunks(steps: _Steps) -> Iterator[Chunk]:
    """Cut the steps into chunks, without those that are padding; rows in messages count steps alone."""
    observations = steps.fields["observation"]
    size, row = rows_per_chunk(math.prod(observations.shape[1:]) * observations.itemsize), 0
    for start in range(0, len(observations), size):
        stop = min(start + size, len(observations))
        keep = slice(None) if steps.mask is None else steps.mask[start:stop]
        part = {name: values[start:stop][keep] for name, values in steps.fields.items()}
        count = len(part["observation"])
        if count == 0:
            continue
        # A step ends its episode by a flag, or by being the last of its trajectory.
        flags = {
            name: as_flags(part[name], str(steps.path), name, row)
            for name in ("next/terminated", "next/truncated", "next/done")
            if name in part
        }
        last = _last_rows(steps, start, stop)[keep]
        if steps.mask is None and steps.length < len(observations):
            _refuse_padding(steps.path, row, part, last)
        ended = flags["next/truncated"] | flags.get("next/done", False) | last
        yield Chunk(
            part["observation"],
            part["action"],
            part["next/reward"].reshape(count),
            part["next/observation"],
            flags["next/terminated"],
            flags["next/truncated"] | (ended & ~flags["next/terminated"]),
            np.ones(count, dtype=bool),
        )
        row += count


def _last_rows(steps: _Steps, start: int, stop: int) -> np.ndarray:
    """`[n]` bool: the row ends a trajectory, whatever its flags say."""
    rows = np.arange(start, stop)
    last = (rows + 1) % steps.length == 0
    following = np.minimum(rows + 1, len(steps.fields["observation"]) - 1)
    if steps.mask is not None:
        last |= ~steps.mask[following]
    if steps.trajectory is not None:
        last |= steps.trajectory[following] != steps.trajectory[rows]
    return last


def _refuse_padding(path: Path, first_row: int, part: dict[str, np.ndarray], last: np.ndarray) -> None:
    """Refuse trajectories that end in zeros in every field: steps that were never taken, with no mask to say so."""
    rows = np.flatnonzero(last)
    zeros = np.stack([(values[rows] == 0).reshape(len(rows), -1).all(1) for values in part.values()]).all(0)
    if zeros.any():
        row = first_row + int(rows[zeros][0])
        raise ValueError(
            f"{path}: row {row}, the last of its trajectory, is zero in every field, which looks like padding; store "
            "the mask that split_trajectories writes ([E, T], True for steps), all True if these rows are steps"
        )
