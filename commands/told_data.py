"""The arguments of the data that an agent learned from, as its checkpoint tells them: checked before they are used.

A checkpoint may be anyone's. It says which data these are and how they are seen; where conversions are written, and
whether anything is downloaded, is the user's to say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.envs.from_file import environment_from_file
from datamodules.offline import OfflineDataModule
from modules.arguments.checks import LARGEST_SEED
from modules.trust.hints import fits, hints_of
from modules.trust.names import short

NEVER = ("cache_dir", "download")
"""Arguments of data that no file decides."""

UNITS = ("reward_scale", "reward_shift")
"""Arguments of the data that say what the rewards were that was learned from."""


def told_arguments(content: Mapping[str, Any], path: str | Path, names: Sequence[str]) -> dict[str, Any]:
    """Arguments of recorded data by name, as far as the checkpoint has them.

    Args:
        content: the checkpoint.
        path: its path, for errors.
        names: arguments of `OfflineDataModule` that are asked for.

    Raises:
        ValueError: one is of another kind than the data take, or names an environment that is not trusted.
    """
    assert not set(names).intersection(NEVER)
    told, hints = content.get("datamodule_hyper_parameters") or {}, hints_of(OfflineDataModule)
    found = {name: told[name] for name in names if name in told}
    for name, value in found.items():
        good = fits(value, hints[name])
        if good and isinstance(value, int | float):
            good = math.isfinite(value) and (name != "seed" or 0 <= value <= LARGEST_SEED)
        if not good:
            raise ValueError(f"checkpoint {path} is damaged: {name} of its data is {short(value)}; use another one")
    if found.get("environment") is not None:
        environment_from_file(found["environment"], f"{path}: its data")
    return found
