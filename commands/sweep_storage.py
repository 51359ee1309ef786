"""Where a sweep keeps its trials: a journal file that any number of processes append to, or a database."""

from __future__ import annotations

import os
from pathlib import Path

import optuna
from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy.exc import SQLAlchemyError

from modules.disk import make_folder
from modules.trust.names import short

DAMAGED = (ValueError, LookupError, TypeError, AttributeError, AssertionError)
"""Errors of Optuna for a journal that is none."""


class JournalLock(JournalFileOpenLock):
    """A lock that the system gives back when its process ends, however it ends.

    That of Optuna is a file, which a killed process leaves behind, for half a minute of waiting.

    Args:
        path: path of the journal.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._held = FileLock(f"{path}.lock")

    def acquire(self) -> bool:
        """Wait until nobody else writes."""
        self._held.acquire()
        return True

    def release(self) -> None:
        """Let others write."""
        self._held.release()


def open_storage(address: str | None, root: Path) -> BaseStorage:
    """The storage at an address.

    Args:
        address: a path of a journal file, or a database such as `sqlite:///sweep.db`; None for `sweep.journal` in the
            folder.
        root: folder of the sweep.

    Raises:
        ValueError: it cannot be read or made, or holds something else.
    """
    place = str(root / "sweep.journal") if address is None else address
    try:
        if "://" in place:
            return RDBStorage(place)
        make_folder(Path(place).absolute().parent)
        lock = JournalLock(place)
        mend_journal(Path(place), lock)
        return JournalStorage(JournalFileBackend(place, lock))
    except (*DAMAGED, OSError, ImportError, SQLAlchemyError) as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        raise ValueError(
            f"--storage {short(place, 150)} cannot be used: {short(reason, 120)}; name a journal file, or a database "
            "such as sqlite:///sweep.db"
        ) from error


def mend_journal(path: Path, lock: JournalLock) -> None:
    """Cut off a last line that a crash of the machine has left without its end: nothing could be read behind it."""
    if not path.is_file():
        return
    lock.acquire()
    try:
        with path.open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            tail = min(size, 1 << 20)
            file.seek(size - tail)
            last = file.read(tail)
            if not last or last.endswith(b"\n"):
                return
            whole = last.rfind(b"\n")
            if whole < 0 and tail < size:
                return
            file.truncate(size - tail + whole + 1)
    finally:
        lock.release()


def quiet() -> None:
    """Let Optuna tell errors alone: a sweep has a line of its own for each trial."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
