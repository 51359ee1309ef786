"""Checkpoint files, read without running what they may hold."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch


def read_checkpoint(path: str | Path, map_location: Any = None, *, weights_only: bool = True) -> dict[str, Any]:
    """What a checkpoint file holds, read without running any code that it may contain.

    Raises:
        ValueError: the file is missing, truncated, holds more than tensors and plain values, or holds no model.
    """
    if not Path(path).is_file():
        raise ValueError(f"no checkpoint file at {path}")
    if not zipfile.is_zipfile(path):  # looks for the directory at the end, which a truncated file has lost
        raise ValueError(f"checkpoint {path} is truncated, or is no checkpoint at all; use another one")
    try:
        loaded = torch.load(path, map_location, weights_only=weights_only)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = found[1] if found else "something else"
        raise ValueError(
            f"{path} is no checkpoint of tensors and plain values: it holds {what}; it is not loaded, as that "
            "could run any code"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        reason = str(error).split("\n", 1)[0][:200]
        raise ValueError(f"checkpoint {path} is damaged ({reason}); use another one") from error
    if not isinstance(loaded, dict) or "state_dict" not in loaded:
        raise ValueError(f"{path} was not written by reverie: it holds no model")
    return loaded
