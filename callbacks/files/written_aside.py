"""Files that are whole or absent under their names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_aside(path: Path, secure: bool = False) -> Iterator[Path]:
    """A hidden path in the same folder, which is made; what was written there replaces the file when the block is left.

    After an error the old file stays and nothing is left beside it; a crash leaves the old file or the new one.

    Args:
        path: path of the file.
        secure: whether the disk has the file, and its name, when the block is left, so that it outlives the machine.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.tmp")
    try:
        yield aside
        if secure:
            to_disk(aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    if secure:
        to_disk(path.parent)


def to_disk(path: Path) -> None:
    """Return when the disk has what was written to a file, or the names in a folder."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
