"""Starts processes that have imported everything, within milliseconds: they are forked off one that waits for it.

A process has its own arguments, environment, folder, streams, signals and exit status, and leaves as every Python does.
What it shares with its siblings is what happens while Python and the libraries start, such as the seed of hashes;
tests of that start a Python of their own. All processes of pytest share one server, from the first use on.
"""

from __future__ import annotations

import atexit
import fcntl
import importlib
import os
import pickle
import random
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PATIENCE = 250.0
"""Seconds until a process is given up, for a machine that is ten times as busy as it should be."""

status = 0
"""The exit status of a process that was forked off."""

asking = threading.Lock()
"""Held by the thread that asks the server."""


# ---------------------------------------------------------------------------------------------------- who asks for them
class Order(NamedTuple):
    """The work of a new process."""

    call: bytes
    """A pickled pair of function and arguments; the function is imported by its name."""
    folder: str
    environment: dict[str, str]
    path: list[str]
    """Where modules are searched for."""
    streams: tuple[str, str] | None = None
    """Files of standard output and standard error; those of this process by default."""


class Forked:
    """A process that was forked off the server."""

    def __init__(self, order: Order) -> None:
        self.exitcode: int | None = None
        self.pid: int = ask(order)

    def poll(self) -> int | None:
        """The exit status, which is negative where a signal ended it; None while it runs."""
        if self.exitcode is None:
            self.exitcode = ask(self.pid)
        return self.exitcode

    def wait(self, patience: float) -> int | None:
        """`poll`, after so many seconds at most."""
        end = time.monotonic() + patience
        while self.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        return self.exitcode

    def kill(self) -> None:
        """End it, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait(PATIENCE)


def fork(function: Callable[..., Any], *arguments: Any) -> Forked:
    """Call a function in a process of its own, which shares folder, environment and streams with this one."""
    return Forked(Order(pickle.dumps((function, arguments)), os.getcwd(), dict(os.environ), sys.path))


def run_reverie(
    arguments: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    patience: float = PATIENCE,
    *,
    fork_second: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run `python -m reverie`.

    Args:
        arguments: what stands behind `reverie`.
        folder: its working directory, which is searched for modules first.
        environment: variables beside those of this process.
        patience: seconds until it is killed.
        fork_second: whether the second process that it may start is forked off, too; else it is a Python of its own.

    Raises:
        subprocess.TimeoutExpired: it had to be killed.
    """
    command = ["reverie", *arguments]
    variables = dict(os.environ | environment)
    installed = [path for path in sys.path if path.startswith((sys.prefix, sys.base_prefix))]
    path = [str(folder), *filter(None, variables.get("PYTHONPATH", "").split(os.pathsep)), *installed]
    aside = Path(tempfile.gettempdir())  # the disk of the folder may be full
    out, err = (aside / f"reverie-{stream}-{os.getpid()}-{time.monotonic_ns()}" for stream in ("out", "err"))
    process = Forked(
        Order(pickle.dumps((be_reverie, (command, fork_second))), str(folder), variables, path, (str(out), str(err)))
    )
    code = process.wait(patience)
    process.kill()
    printed = [stream.read_text() for stream in (out, err)]
    out.unlink()
    err.unlink()
    if code is None:
        raise subprocess.TimeoutExpired(command, patience, *printed)
    return subprocess.CompletedProcess(command, code, *printed)


def start_reverie(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """`run_reverie` in a Python of its own."""
    command = [sys.executable, "-m", "reverie", *arguments]
    variables = os.environ | environment
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=PATIENCE)


def address() -> str:
    """Path of the socket of the server that all processes of this run of pytest share."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    return os.path.join(tempfile.gettempdir(), f"reverie-{os.getuid()}-{run[:16]}")


@contextmanager
def locked() -> Iterator[None]:
    """Inside, no other process starts or ends a server."""
    here = os.open(HERE, os.O_RDONLY)
    try:
        fcntl.flock(here, fcntl.LOCK_EX)
        yield
    finally:
        os.close(here)


@cache
def server() -> Connection:
    """A connection to the process that the others are forked off, which ends with the last connection."""
    mine, path = socket.socket(socket.AF_UNIX), address()
    with locked():
        try:
            mine.connect(path)
        except OSError:  # this is the first one
            Path(path).unlink(missing_ok=True)
            start_server(path)
            mine.connect(path)
    return Connection(mine.detach())


def start_server(path: str) -> None:
    """Start the server at this path, where it can be connected to at once, though it answers within seconds."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", f"import forked; forked.serve({path!r})"]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        # It outlives this process where others need it: nobody waits for its end, as one who holds a `Popen` should.
        os.posix_spawn(sys.executable, command, environment, file_actions=[(os.POSIX_SPAWN_DUP2, listener.fileno(), 0)])


def ask(question: Order | int) -> Any:
    """The answer of the server: the number of a new process, or the exit status of one."""
    with asking:
        server().send(question)
        return server().recv()


# ---------------------------------------------------------------------------------------------------- the server's side
def serve(path: str) -> None:
    """Fork off a process for each order, while somebody is connected; a new process returns from here."""
    atexit.register(leave)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the tests, which end the server
    importlib.import_module("warm")
    listener = socket.socket(fileno=os.dup(0))
    askers = [accept(listener)]
    while askers:
        for ready in wait([listener, *askers]):
            if ready is listener:
                askers.append(accept(listener))
            elif (order := answer(ready)) is not None:
                for open_file in (listener, *askers):
                    open_file.close()
                become(order)
                return
            elif ready.closed:
                askers.remove(ready)
        if not askers:
            with locked():
                if not wait([listener], 0):
                    Path(path).unlink()
                    return
            askers = [accept(listener)]


def accept(listener: socket.socket) -> Connection:
    """The next connection of a process of pytest."""
    return Connection(listener.accept()[0].detach())


def answer(asker: Connection) -> Order | None:
    """Answer the next question of a process of pytest, or close its connection; in a new process, return its order."""
    try:
        question = asker.recv()
    except EOFError:
        asker.close()
        return None
    if isinstance(question, Order):
        number = os.fork()
        if number == 0:
            return question
        asker.send(number)
    else:
        number, status = os.waitpid(question, os.WNOHANG)
        asker.send(os.waitstatus_to_exitcode(status) if number else None)
    return None


def become(order: Order) -> None:
    """Do what was ordered, in a process that is as good as new."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream, file in zip((1, 2), order.streams or (), strict=False):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.environ.clear()
    os.environ.update(order.environment)
    os.chdir(order.folder)
    sys.path[:] = order.path
    function, arguments = pickle.loads(order.call)
    call(function, *arguments)


def call(function: Callable[..., Any], *arguments: Any) -> None:
    """Call a function in a new process, and keep its exit status."""
    global status
    random.seed()
    np.random.seed()
    status = 1
    try:
        function(*arguments)
        status = 0
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        raise


def leave() -> None:
    """End this process when all else that belongs to its end is done, but for freeing everything, for half a second."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def be_reverie(command: list[str], fork_second: bool) -> None:
    """Run `reverie`, which may start a second process of the same command."""
    if "ddp" in command and fork_second:
        launcher = importlib.import_module("pytorch_lightning.strategies.launchers.subprocess_script")
        launcher.subprocess = SimpleNamespace(Popen=Twin())  # type: ignore[attr-defined]
    start_module(command)


def start_module(command: list[str]) -> None:
    """Do as `python -m` does."""
    sys.argv = command
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)


class Twin:
    """A process that waits, from before the first one began, to be the second one of a run; as `Popen` shows one."""

    def __init__(self) -> None:
        self.returncode: int | None = None
        received, self.sent = Pipe(duplex=False)
        self.pid = os.fork()
        if self.pid == 0:
            self.sent.close()
            try:
                command, variables = received.recv()
            except EOFError:  # nobody needs it
                os._exit(0)
            os.environ.clear()
            os.environ.update(variables)
            call(start_module, command)
            sys.exit(0)
        received.close()

    def __call__(self, command: list[str], env: dict[str, str], cwd: str | None = None) -> Twin:
        """Let it begin; the command is that of a new Python."""
        assert command[:3] == [sys.executable, "-m", "reverie"]
        assert cwd is None
        self.sent.send((["reverie", *command[3:]], env))
        return self

    def poll(self) -> int | None:
        """The exit status; None while it runs."""
        if self.returncode is None:
            number, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if number else None
        return self.returncode

    def wait(self, timeout: float) -> int:
        """The exit status.

        Raises:
            subprocess.TimeoutExpired: it still runs after so many seconds.
        """
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("reverie", timeout)
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it, if it runs."""
        self.send_signal(signal.SIGKILL)
