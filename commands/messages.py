"""Messages of errors for the user, and how long they may be; light, for torch is not imported by then."""

from __future__ import annotations

import errno
import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from modules.disk import disk_is_full
from modules.trust.names import cut, printable

LIMIT = 400
"""Characters of a message to the user."""


def shorten(text: str, limit: int = LIMIT) -> str:
    """The text on one printable line, without its middle where it is longer than the limit.

    What is wrong leads, and the fix ends a message.
    """
    line = printable(text)
    if len(line) <= limit:
        return line
    end = (limit - 5) // 3
    return f"{line[: limit - 5 - end]} ... {line[-end:]}"


@contextmanager
def full_disk_named(place: Callable[[], Path | None]) -> Iterator[None]:
    """Within, an error that means a full disk names the folder that is written to, if it names no place itself.

    Args:
        place: the folder, asked for when it is needed; None as long as there is none.

    Raises:
        OSError: a disk is full.
    """
    try:
        yield
    except Exception as error:
        own = isinstance(error, ValueError) or named_file(error) is not None
        if disk_is_full(error) and not own and (folder := place()) is not None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        raise


def named_file(error: BaseException) -> str | None:
    """The file that an error of the system names, if any."""
    name = error.filename if isinstance(error, OSError) else None
    return None if name is None else str(name)


def told(error: Exception) -> str | None:
    """One line about an error that a user can mend; None of any other, which deserves its traceback."""
    if disk_is_full(error) and not isinstance(error, ValueError):  # those are in words for the user
        named, needed = named_file(error), str(getattr(error, "strerror", "")).partition(", ")[2]
        return (
            f"{f'the disk of {named}' if named else 'a disk'} is full{f', {needed}' if needed else ''}: free some "
            "space, or choose another folder; a run goes on from its last checkpoint with --ckpt_path last"
        )
    shortage: str | None = importlib.import_module("modules.arguments.memory").shortage(error)
    if shortage is not None:
        return shortage
    failure = importlib.import_module("modules.torch_private").compiler_failure(error)
    if failure is not None:
        inner, cache = failure
        return (
            f"torch's compiler failed, {type(inner).__name__}: {cut(str(inner), 140)}; if a file of its cache is "
            f"damaged, remove the folder {cache}, else leave compile out"
        )
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__ if isinstance(error, ValueError | OSError | FloatingPointError) else None
