"""Syncs: data of files, and names in folders, that the disk has and that outlive the machine; and full disks."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)


def disk_is_full(error: BaseException | None) -> bool:
    """Whether an error, or what it comes from, says that a disk is full; libraries wrap it in others."""
    while error is not None:
        if (isinstance(error, OSError) and error.errno in FULL) or os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def room_for(path: Path, size: Callable[[], float] | None = None) -> Iterator[None]:
    """Within, a file is written; an error of a full disk names it, and the room that it needs, where that is known.

    Args:
        path: the file.
        size: its bytes, about; asked for when they are needed. By default nobody knows.

    Raises:
        OSError: the disk is full.
    """
    try:
        yield
    except Exception as error:
        if not disk_is_full(error):
            raise
        raise about_file(OSError(errno.ENOSPC, None), path, None if size is None else size()) from error


def about_file(error: OSError, path: Path, size: float | None) -> OSError:
    """An error of writing a file, which it names; of a full disk also the room that is needed, where that is known."""
    room = "" if size is None or not disk_is_full(error) else f", {max(size / 1e6, 0.1):,.1f} MB are needed"
    return OSError(error.errno, f"{os.strerror(error.errno or 0)}{room}", str(path))


def to_disk(path: Path) -> None:
    """Return when the disk has what was written to a file, or the names in a folder."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing; return when the disk has their names."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        to_disk(folder.parent)
