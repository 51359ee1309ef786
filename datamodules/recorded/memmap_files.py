"""Tensors of a folder that `TensorDict.memmap` wrote, opened by name; nothing else in the folder is looked at.

TensorDict's own reader follows whatever types and classes the metadata name. Here they are data: types come from a
closed list, shapes are compared with the sizes of the files, and files lie where their names say.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from tensordict import MemoryMappedTensor

from modules.trust.files import count, read_json_object
from modules.trust.names import short

TYPES = {
    str(dtype): dtype
    for dtype in (
        *(torch.float16, torch.float32, torch.float64, torch.bool),
        *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    )
}

LONGEST_NAME = 100
"""Letters of the name of a folder in a folder."""


def batch_size(folder: Path) -> tuple[int, ...]:
    """Batch size of the TensorDict in a folder.

    Raises:
        ValueError: the folder has no readable description.
    """
    return _shape(folder / "meta.json", read_json_object(folder / "meta.json").get("shape"))


def subfolders(folder: Path) -> list[str]:
    """Names of the TensorDicts inside a TensorDict, each a folder right below it.

    Raises:
        ValueError: the folder has no readable description, or it leads elsewhere.
    """
    entries = read_json_object(folder / "meta.json").items()
    names = [name for name, entry in entries if isinstance(entry, dict) and entry.get("type") == "TensorDict"]
    for name in names:
        if not name.isprintable() or name in ("", ".", "..") or len(name) > LONGEST_NAME or set(name) & {"/", "\\"}:
            raise ValueError(f"{folder / 'meta.json'} names the folder {short(name)}, which is none right below it")
    return names


def find_tensor(folder: Path, name: str) -> torch.Tensor | None:
    """A tensor by its name, such as `next/reward`, mapped from its file; None if the folder has none of this name.

    Raises:
        ValueError: its description is damaged, is of a type that holds no plain numbers, or declares more bytes than
            its file has.
    """
    file = folder / f"{name}.memmap"
    description = file.parent / "meta.json"
    if file.parent != folder and not description.exists():
        return None
    entry = read_json_object(description).get(file.stem)
    if entry is None:
        return None
    if not isinstance(entry, dict) or entry.get("type") is not None or entry.get("is_nested"):
        raise ValueError(f"{folder}: {name} is no tensor of one shape, and nothing else is read")
    if not isinstance(entry.get("dtype"), str) or entry["dtype"] not in TYPES:
        raise ValueError(
            f"{description}: {name} is of type {short(entry.get('dtype'))}; types that are read: {', '.join(TYPES)}"
        )
    shape, dtype = _shape(description, entry.get("shape")), TYPES[entry["dtype"]]
    expected, found = math.prod(shape) * dtype.itemsize, file.stat().st_size if file.is_file() else 0
    # Mapping a file that is too short would fill it up with zeros.
    if found < expected:
        raise ValueError(f"{file} is truncated: it has {found} of {count(expected)} bytes")
    return MemoryMappedTensor.from_filename(file, dtype=dtype, shape=torch.Size(shape))


def _shape(where: Path, value: Any) -> tuple[int, ...]:
    if isinstance(value, list) and all(type(size) is int and 0 <= size < 1 << 62 for size in value) and len(value) < 33:
        return tuple(value)
    raise ValueError(f"{where} is damaged: a shape is {short(value)}, a list of sizes is needed")
