"""Checkpoint files, read without running what they may hold."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modules.hints import fits
from modules.trust import check_plain, short


def read_checkpoint(path: str | Path, map_location: Any = None) -> dict[str, Any]:
    """What a checkpoint file holds, read without running any code that it may contain.

    Its checksums are compared: 0.4 s for 500 MB.

    Raises:
        ValueError: the file is missing, truncated or damaged, holds more than tensors and plain values, holds no model,
            or values of other kinds than reverie writes.
    """
    if not Path(path).is_file():
        raise ValueError(f"no checkpoint file at {path}")
    if not zipfile.is_zipfile(path):  # looks for the directory at the end, which a truncated file has lost
        raise ValueError(f"checkpoint {path} is truncated, or is no checkpoint at all; use another one")
    _check_bytes(path)
    try:
        loaded = torch.load(path, map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = found[1] if found else "something else"
        raise ValueError(
            f"{path} is no checkpoint of tensors and plain values: it holds {what}; it is not loaded, as that "
            "could run any code"
        ) from error
    except (RuntimeError, EOFError, OSError, LookupError, TypeError, AttributeError, AssertionError, ValueError,
            MemoryError, OverflowError) as error:  # fmt: skip
        reason = short(str(error).split("\n", 1)[0] or type(error).__name__, 200)
        raise ValueError(f"checkpoint {path} is damaged ({reason}); use another one") from error
    if not isinstance(loaded, dict) or "state_dict" not in loaded:
        raise ValueError(f"{path} was not written by reverie: it holds no model")
    check_contents(loaded, path)
    return loaded


def _check_bytes(path: str | Path) -> None:
    """Compare the checksum of every entry, which torch writes and does not read.

    Raises:
        ValueError: bytes have changed, or an entry is compressed, as torch never writes it.
    """
    try:
        with zipfile.ZipFile(path) as file:
            packed = [entry.filename for entry in file.infolist() if entry.compress_type != zipfile.ZIP_STORED]
            declared = sum(entry.file_size for entry in file.infolist())
            # Entries that share bytes would be read without end.
            if not packed and declared > Path(path).stat().st_size:
                raise zipfile.BadZipFile(f"its entries declare {declared:,} bytes, more than it has")
            changed = None if packed else file.testzip()
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"checkpoint {path} is damaged ({error}); use another one") from error
    if packed or changed:
        what = f"{packed[0]} is compressed" if packed else f"the bytes of {changed} have changed since it was written"
        raise ValueError(f"checkpoint {path} is damaged: {what}; use another one")


AGENT: dict[str, Any] = {
    "class_path": str, "spaces": str, "updates": int, "alive": list[bool], "member_names": list[str] | tuple[str, ...]
}  # fmt: skip
DATASET: dict[str, Any] = {
    "name": str | None, "content_hash": str | None, "environment": str | None, "reference_min": float | None,
    "reference_max": float | None, "reference_source": str | None,
}  # fmt: skip


def check_contents(checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Refuse what reverie never writes into a checkpoint.

    Raises:
        ValueError: an entry is of another kind, or one of the agent's is missing.
    """
    weights = checkpoint["state_dict"]
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"checkpoint {path} is damaged: its state_dict holds more than tensors; use another one")
    for name, kinds in (("agent", AGENT), ("dataset", DATASET)):
        entry = checkpoint.get(name)
        if entry is None:
            continue
        if not isinstance(entry, Mapping):
            raise ValueError(f"checkpoint {path} is damaged: its {name} is {short(entry)}; use another one")
        for key, kind in kinds.items():
            missing = name == "agent" and key not in entry
            if missing or not fits(entry.get(key), kind) or not _printable(entry.get(key)):
                said = short(entry[key]) if key in entry else "missing"
                raise ValueError(f"checkpoint {path} is damaged: {key} of its {name} is {said}; use another one")
    for name in ("hyper_parameters", "datamodule_hyper_parameters"):
        given = checkpoint.get(name, {})
        if not isinstance(given, Mapping):
            raise ValueError(f"checkpoint {path} is damaged: its {name} are {short(given)}; use another one")
        check_plain(given, f"{path}: {name}", (Tensor, torch.dtype, torch.device))


def _printable(value: Any) -> bool:
    """Whether texts hold nothing that does more on a terminal than to be seen."""
    texts = value if isinstance(value, list | tuple) else [value]
    return all(text.isprintable() for text in texts if isinstance(text, str))
