"""Runs of `reverie` that end at one of the calls by which they change files, and a list of these calls."""

from __future__ import annotations

import inspect
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import forked
import pytest
from forked import HERE, PATIENCE, ROOT, Forked, Order, be_reverie

SOURCES = Path(__file__).parent


def build(folder: Path, name: str = "points") -> Path:
    """A library of this folder, `points` that counts calls or `full` that fills the disk, compiled into another one.

    Raises:
        SystemExit: there is no C compiler.
    """
    library, source = folder / f"{name}.so", SOURCES / f"{name}.c"
    command = [os.environ.get("CC", "cc"), "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"]
    try:
        subprocess.run(command, check=True)
    except FileNotFoundError:
        sys.exit(f"{command[0]} is no C compiler of this machine: install one, or name another by CC")
    return library


def preload(library: Path) -> None:
    """Let all later runs of this process be forked off a server with that library in front of libc."""
    os.environ.pop("PYTEST_XDIST_TESTRUNUID", None)  # by whose name tests share another server
    os.environ["LD_PRELOAD"] = str(library)
    try:
        forked.server()
    finally:
        del os.environ["LD_PRELOAD"]


@contextmanager
def preloaded(library: Path) -> Iterator[None]:
    """Within, processes of tests are forked off a server of their own, with that library in front of libc."""
    before = forked.server
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTEST_XDIST_TESTRUNUID", f"{os.getpid()}{library.stem}")
        patched.setenv("LD_PRELOAD", str(library))
        mine = inspect.unwrap(before)()
    forked.server = lambda: mine
    try:
        yield
    finally:
        forked.server = before
        mine.close()


def run(
    arguments: tuple[str, ...], folder: Path, at: int = 0, torn: bool = False, lose: int = 0, log: Path | None = None
) -> int:
    """Start or continue the one run of a folder; its exit status, which is -9 where it was killed.

    Args:
        arguments: of `reverie fit`.
        folder: all that the run reads and writes is below `folder/work`; `folder/out.txt` has what it prints.
        at: number of the call in front of which it is killed; 0 for none.
        torn: whether that call, if it is a write, is done by half first.
        lose: 1 if the power fails, too, and the disk loses what was not synced; 2 if it keeps the names.
        log: file for the list of all calls.

    Raises:
        TimeoutError: it did not end.
    """
    work, out = folder / "work", folder / "out.txt"
    variables = {name: value for name, value in os.environ.items() if not name.startswith("KILL_")}
    variables |= {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)]),
        "REVERIE_CACHE": str(work / "cache"),
        "REVERIE_RUN_DIR": str(work / "run"),
        "OMP_NUM_THREADS": "1",
        "KILL_ROOT": str(work),
        "KILL_AT": str(at),
        "KILL_TORN": str(int(torn)),
        "KILL_LOSE": str(lose),
        "KILL_VAULT": str(folder / "vault"),
    }
    (folder / "vault").mkdir(exist_ok=True)
    if log is not None:
        variables["KILL_LOG"] = str(log)
    command = ["reverie", "fit", *arguments, "--ckpt_path", "last"]
    installed = [path for path in sys.path if path.startswith((sys.prefix, sys.base_prefix))]
    path = [str(work), str(ROOT), str(HERE), *installed]
    order = Order(pickle.dumps((be_reverie, (command, True))), str(work), variables, path, (str(out), str(out)))
    process = Forked(order)
    code = process.wait(PATIENCE)
    process.kill()
    if code is None:
        raise TimeoutError(f"{folder}: no end after {PATIENCE:.0f} s")
    return code
