"""Reader of a memory-mapped TensorDict folder in TorchRL's TED layout, `[N]` steps or `[E, T]` trajectories."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase

from datamodules.record import Chunk, Record

CHUNK_STEPS = 65_536
FIELDS: dict[str, str | tuple[str, str]] = {
    "observation": "observation",
    "action": "action",
    "next/observation": ("next", "observation"),
    "next/reward": ("next", "reward"),
    "next/terminated": ("next", "terminated"),
    "next/truncated": ("next", "truncated"),
}


def read_memmap(path: Path) -> Record:
    """Describe a folder that `TensorDict.memmap` wrote. Pickled fields are refused and never loaded.

    Raises:
        ValueError: the folder is damaged, empty, or lacks a field.
    """
    _check_files(path)
    try:
        data = TensorDict.load_memmap(path, allow_pickle=False)
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{path} is no readable TensorDict folder (truncated, or with pickled fields): {error}"
        ) from error
    if data.numel() == 0:
        raise ValueError(f"{path}: the dataset is empty (batch size {list(data.batch_size)})")
    if data.ndim not in (1, 2):
        raise ValueError(f"{path}: batch size {list(data.batch_size)} is neither [N] nor [E, T]")
    length = data.batch_size[-1]
    flat = data.reshape(-1)
    return Record(
        name=path.name,
        location=str(path),
        format="memmap",
        chunks=lambda: _chunks(flat, length),
        steps=len(flat),
    )


def _check_files(path: Path) -> None:
    """Compare file sizes with the description first: mapping a file that is too short fills it up with zeros."""
    for name in FIELDS:
        file = path / f"{name}.memmap"
        try:
            entry = json.loads((file.parent / "meta.json").read_text()).get(file.stem)
        except (OSError, json.JSONDecodeError) as error:
            raise ValueError(f"{file.parent / 'meta.json'} is missing or damaged: {error}") from error
        if entry is None:
            raise ValueError(f"{path}: missing field {name}; TorchRL's TED layout is needed")
        dtype = getattr(torch, entry["dtype"].removeprefix("torch."))
        expected, found = math.prod(entry["shape"]) * dtype.itemsize, file.stat().st_size if file.exists() else 0
        if found < expected:
            raise ValueError(f"{file} is truncated: it has {found} of {expected} bytes")


def _chunks(data: TensorDictBase, length: int) -> Iterator[Chunk]:
    """Cut `[N]` steps into chunks; every `length` steps an episode ends whatever its flags say."""
    for start in range(0, len(data), CHUNK_STEPS):
        part = {name: data[start : start + CHUNK_STEPS].get(key).numpy() for name, key in FIELDS.items()}
        steps = len(part["observation"])
        terminated = part["next/terminated"].reshape(steps).astype(bool)
        last = (np.arange(start, start + steps) + 1) % length == 0
        yield Chunk(
            part["observation"],
            part["action"],
            part["next/reward"].reshape(steps),
            part["next/observation"],
            terminated,
            part["next/truncated"].reshape(steps).astype(bool) | (last & ~terminated),
            np.ones(steps, dtype=bool),
        )
