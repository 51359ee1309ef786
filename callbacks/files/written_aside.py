"""Files that are whole or absent under their names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modules.disk import make_folder, room_for, to_disk


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A hidden path in the same folder, which is made; what was written there replaces the file when the block is left.

    After an error the old file stays and nothing is left beside it; a crash, or a power failure, leaves the old file or
    the new one. The disk has the new one, and its name, when the block is left.

    Args:
        path: path of the file.

    Raises:
        OSError: the disk is full; it names the file.
    """
    aside = path.with_name(f".{path.name}.tmp")
    with room_for(path):
        make_folder(path.parent)
        try:
            yield aside
            to_disk(aside)
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
        to_disk(path.parent)
