"""Faults of a store of MLflow on this machine, in words: of a database in a file, or of a folder of artifacts."""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

try:
    import resource
except ImportError:  # not a system of POSIX, which alone has such limits
    resource = None  # type: ignore[assignment]

TRIAL_BYTES = 1 << 16
"""Written to find out what the system says: SQLite keeps that to itself."""


class Fault(NamedTuple):
    """A fault of a disk, or of who uses it.

    Attributes:
        what: what fails, on what, and why.
        fix: what a person does about it.
        then: what comes of the records that wait, once that is done.
    """

    what: str
    fix: str
    then: str = "and they are sent, by `reverie sync` where the run is over"


class RemovedError(OSError):
    """The file of a database is another one than that which was opened, or none."""


REMOVED = Fault(
    "it was removed or replaced, and what it had is lost",
    "go on with --ckpt_path last",
    "and they are sent to a new run",
)
LOCKED = Fault("another program holds it and does not let go", "end that")
DAMAGED = Fault("it is damaged, half-made or of another version of MLflow", "move it away")
SAID_BY_SQLITE = {
    "is locked": LOCKED,
    "readonly": Fault("it cannot be written", "let this user write it"),
    "disk I/O error": Fault("its disk does not do as it should", "look at that"),
    "unable to open": Fault("it or a file beside it cannot be opened", "look at their rights"),
}
"""Parts of what SQLite says, but for that of a full disk, to what is told where the system has no more to say."""
SAID_BY_SYSTEM = {
    errno.ENOSPC: Fault("the disk at {disk} has no room for it", "free some space"),
    errno.EDQUOT: Fault("this user has no quota left on the disk at {disk}", "free some space, or ask for more"),
    errno.EROFS: Fault("the disk at {disk} can only be read", "mount it for writing"),
    errno.EACCES: Fault("this user may not write it or its folder", "give the right to"),
    errno.EPERM: Fault("it or its folder must not be changed", "give the right to"),
    errno.EFBIG: Fault("a file must not become as large", "raise that limit, of `ulimit -f` or of the disk"),
}
"""Answers of the system about a file that cannot be written."""


def database_fault(path: Path, error: BaseException) -> Fault:
    """The fault of a database in a file, from an error of SQLite, or of who uses it; `what` names the file.

    SQLite tells a disk's quota, a file's greatest size and a folder's rights as one: so a file beside the database is
    written and removed, and what the system says of that is told.
    """
    said = _of_sqlite(error)
    reason = " ".join(str(error if said is None else said).split())[:150]
    found = next((fault for part, fault in SAID_BY_SQLITE.items() if part in reason), DAMAGED)
    if isinstance(error, RemovedError) or (found is SAID_BY_SQLITE["readonly"] and not path.exists()):
        return REMOVED._replace(what=f"MLflow cannot use {path}: {REMOVED.what}")
    if "is full" in reason:
        found = SAID_BY_SYSTEM[errno.ENOSPC]
    if found not in (LOCKED, DAMAGED) and (refused := refusal(path)) is not None:
        reason = f"{reason}, {os.strerror(refused)}" if "is full" not in reason else reason
        found = SAID_BY_SYSTEM.get(refused, found)
    return Fault(f"MLflow cannot use {path} ({reason}): {found.what.format(disk=_disk(path))}", found.fix)


def outage_fault(database: Path | None, error: BaseException) -> Fault | None:
    """The fault of a store that took something before, or of a folder of artifacts.

    Args:
        database: the store's file, where it is one.
        error: what it failed with, or what a look at it, see `callbacks.mlflow.store.check_reachable`, said.

    Returns:
        None where it is no fault of this machine's disks: a server is away.
    """
    if database is not None and (isinstance(error, RemovedError) or _of_sqlite(error) is not None):
        return database_fault(database, error)
    for one in _chain(error):
        if isinstance(one, OSError) and one.errno in SAID_BY_SYSTEM:
            # A copy that fails names its source first, which can be read, and what cannot be written second.
            place = one.filename2 or one.filename or database
            return None if place is None else system_fault(Path(place), one)
    return None


def system_fault(path: Path, error: OSError) -> Fault:
    """The fault of a file that cannot be written, from the system's error; `what` names the file."""
    found = SAID_BY_SYSTEM.get(error.errno or 0, Fault("this user cannot write there", "look at its folder"))
    return Fault(f"MLflow cannot use {path} ({error.strerror}): {found.what.format(disk=_disk(path))}", found.fix)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all that it comes from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _of_sqlite(error: BaseException) -> sqlite3.Error | None:
    """The error of SQLite that an error of SQLAlchemy or MLflow comes from."""
    for one in _chain(error):
        for found in (one, getattr(one, "orig", None)):
            if isinstance(found, sqlite3.Error):
                return found
    return None


def refusal(path: Path) -> int | None:
    """The number of the system's error where a database, or a file beside it, cannot be written now; else None."""
    try:
        if path.exists():
            path.open("r+b").close()
        with tempfile.TemporaryFile(dir=path.parent) as trial:
            trial.write(bytes(TRIAL_BYTES))
            trial.flush()
            os.fsync(trial.fileno())
    except OSError as error:
        return error.errno
    limit = -1 if resource is None else resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    too_large = limit >= 0 and path.exists() and path.stat().st_size + TRIAL_BYTES > limit
    return errno.EFBIG if too_large else None


def _disk(path: Path) -> Path:
    """The folder at which the disk of a file is mounted."""
    return next((folder for folder in path.absolute().parents if os.path.ismount(folder)), path.parent)
