"""Whether there is a place for what a command writes at its end, asked before the work is done."""

from __future__ import annotations

import os
from pathlib import Path

from modules.trust.names import short


def check_folder(option: str, folder: Path) -> None:
    """Refuse a folder that can neither be made nor written to.

    Args:
        option: name of the option that names it, or names a file in it.
        folder: the folder, which need not exist.

    Raises:
        ValueError: something on its way is no folder, or is read-only.
    """
    named = f"{option} {short(str(folder), 150)}"
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"{named}: {short(str(there), 150)} is no folder; name another one")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{named}: {short(str(there), 150)} cannot be written to; name another one")
