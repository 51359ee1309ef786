"""The other processes of a run: when one has failed the others notice within seconds, and each says so in a line."""

from __future__ import annotations

import os
import platform
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import TimeoutExpired
from types import FrameType
from typing import Any, NamedTuple, Protocol

import torch.distributed as dist
from pytorch_lightning import Callback, LightningModule, Trainer

from callbacks.signals import how_to_go_on, where_to_go_on
from commands.messages import shorten, told
from modules.agent.lightning_private import LAUNCHER
from modules.stop import Stop
from modules.trust.names import cut

LOOK_EVERY = 0.2
"""Seconds from one look at the other processes to the next."""

PATIENCE = 5.0
"""Seconds that the main thread has to notice by itself, and as many again after it was interrupted."""


class ProcessLost(Stop):
    """Another process of the run has ended, so that this one ends, too; its argument says so."""


class Child(Protocol):
    """A process that this one has started."""

    def poll(self) -> int | None:
        """The exit status, negative where a signal ended it; None while it runs."""

    def wait(self, timeout: float) -> int:
        """The exit status, of which a `TimeoutExpired` is raised after so many seconds."""

    def kill(self) -> None:
        """End it, if it runs."""


class Peer(NamedTuple):
    """Another process of the run, on this machine.

    Attributes:
        rank: its index.
        status: its exit status; None while it runs, `UNKNOWN` where it has ended and only its parent knows how.
    """

    rank: int
    status: Callable[[], int | None]


UNKNOWN = 256
"""No exit status."""


def status_by_number(process: int) -> Callable[[], int | None]:
    """Status of a process of this machine that another one has started: unknown, once it has ended."""
    try:
        opened = os.pidfd_open(process)
    except ProcessLookupError:
        return lambda: UNKNOWN
    except (AttributeError, OSError):  # a system that cannot; connections break all the same
        return lambda: None
    poll = select.poll()
    poll.register(opened, select.POLLIN)
    return lambda: UNKNOWN if poll.poll(0) else None


def machine() -> str:
    """Where a number means one process: this start of this machine, and this container; names need not be unique."""
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{start} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def killed_for_memory() -> int:
    """How many processes this machine has ended for lack of memory since it was started; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


class Peers(Callback):
    """Watches the other processes of a run on this machine, and ends this one when one of them has failed.

    Connections to a process that has died break, in the next call that needs it. The watch is for what they do not
    tell: which process it was, how it ended, and that it has while this one evaluates, plays or waits for others.

    While a run trains, nobody may end. Afterwards the first process may have hours of work that needs nobody else, so
    that a process is missed only when it was started by this one, and failed.

    Args:
        trains: whether the run trains, in which all are needed.
        seconds: of patience, twice, before the process ends in whatever it does.

    Attributes:
        lost: rank and exit status of those that have failed.
        directory: the run's folder, once there is one.
    """

    def __init__(self, trains: bool = True, seconds: float = PATIENCE) -> None:
        self.trains = trains
        self.seconds = seconds
        self.rank = 0
        self.world = 1
        self.lost: list[tuple[int, int]] = []
        self.directory: Path | None = None
        self.folder_is_named = False
        self._started: Sequence[Child] = ()
        self._children: list[Peer] = []
        self._others: list[Peer] = []
        self._leaving = threading.Event()  # the main thread ends already
        self._memory = killed_for_memory()
        self._thread: threading.Thread | None = None

    def write_below(self, directory: Path, named: bool) -> None:
        """Take note of the run's folder, and whether `REVERIE_RUN_DIR` names it."""
        self.directory = directory
        self.folder_is_named = named

    # --------------------------------------------------------------------------------------------- who is watched, when
    def watch_children(self, children: Sequence[Child], first_rank: int) -> None:
        """Watch processes that this one has started, whose ranks count from the given one on."""
        self._started = children
        self._children = [Peer(rank, child.poll) for rank, child in enumerate(children, first_rank)]
        self._begin()

    def watch_launcher(self, rank: int) -> None:
        """Watch the process that has started this one, if a process of the run has, before they are connected."""
        launcher = os.environ.get(LAUNCHER, "")
        if self.trains and launcher.isdecimal():
            self._others = [Peer(rank, status_by_number(int(launcher)))]
            self._begin()

    def watch_connected(self) -> None:
        """Watch all processes of this machine, which can tell each other their numbers by now."""
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        everybody: list[Any] = [None] * self.world
        dist.all_gather_object(everybody, (here := machine(), os.getpid()))
        if not self.trains:
            return
        children = {peer.rank for peer in self._children}
        self._others = [
            Peer(rank, status_by_number(process))
            for rank, (place, process) in enumerate(everybody)
            if place == here and rank != self.rank and rank not in children
        ]
        self._begin()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the others end from now on."""
        self._others = []

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Look away from now on: this process ends."""
        self._leaving.set()

    def stop(self) -> None:
        """Look away from now on: this process needs nobody else any more."""
        self._leaving.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            if signal.getsignal(signal.SIGUSR2) == self._interrupt:
                signal.signal(signal.SIGUSR2, signal.SIG_DFL)

    def _begin(self) -> None:
        if self._thread is None:
            if signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL:
                signal.signal(signal.SIGUSR2, self._interrupt)
            self._thread = threading.Thread(target=self._watch, name="peers", daemon=True)
            self._thread.start()

    # ------------------------------------------------------------------------------------------------- when one is lost
    def look(self) -> bool:
        """Whether a process has failed, or has ended while it is needed."""
        self.lost = [(peer.rank, code) for peer in self._children if (code := peer.status())]
        self.lost += [(peer.rank, code) for peer in self._others if (code := peer.status()) is not None]
        return bool(self.lost)

    def _watch(self) -> None:
        while not self.look():
            if self._leaving.wait(LOOK_EVERY):
                return
        # The main thread notices by itself in a collective. An evaluation can be interrupted, code of others cannot.
        if self._leaving.wait(self.seconds):
            return
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)
        if self._leaving.wait(self.seconds):
            return
        for line in self.lines():
            print(f"reverie: error: {line}", file=sys.stderr, flush=True)
        os._exit(1)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if not self._leaving.is_set():
            raise ProcessLost

    def end_children(self, seconds: float) -> None:
        """Let the processes that this one has started end, and end those that do not within so many seconds."""
        end = time.monotonic() + seconds
        for process in self._started:
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except TimeoutExpired:
                process.kill()
                process.wait(seconds)

    # ----------------------------------------------------------------------------------------------------- what is said
    @contextmanager
    def named(self) -> Iterator[None]:
        """Within, an error of one of several processes ends each of them with a line.

        Raises:
            SystemExit: status 2 after a mistake of the user's, 1 after any other error of this or another process.
        """
        try:
            yield
        except (Exception, ProcessLost) as error:
            if self._thread is None or os.environ.get("REVERIE_DEBUG") == "1":
                raise
            why, status = self._why(error)
            self._leaving.set()
            if dist.is_initialized() and dist.get_backend() == "gloo":
                dist.destroy_process_group()  # the others may wait for this process in a call that only this ends
            self.end_children(2 * self.seconds)
            for line in why:
                print(f"reverie: error: {shorten(line)}", file=sys.stderr, flush=True)
            sys.exit(status)
        finally:
            self.stop()

    def _why(self, error: BaseException) -> tuple[list[str], int]:
        """The lines about an error, and the exit status."""
        chain = [error]
        while (origin := chain[-1].__cause__ or chain[-1].__context__) is not None and origin not in chain:
            chain.append(origin)
        if isinstance(error, ProcessLost) or broke_connection(chain[-1]):
            end = time.monotonic() + self.seconds / 2
            while not self.look() and time.monotonic() < end:  # connections break before the process has ended
                time.sleep(LOOK_EVERY / 4)
            return self.lines(), 1
        own = next(e for e in chain if not broke_connection(e))
        words = told(own) if isinstance(own, Exception) else None
        return [self.own_line(own, words)], 1 if words is None else 2

    def lines(self) -> list[str]:
        """A line about each process that a signal has ended, which only the one that started it knows, then the own."""
        memory = killed_for_memory() > self._memory
        said = [
            f"{self.name(rank)} was killed by {signal_of(code)}"
            + (", for lack of memory: the system has ended a process for it meanwhile" if memory else "")
            for rank, code in self.lost
            if code < 0
        ]
        gone = ", ".join(str(rank) for rank, _ in self.lost)
        why = f"process {gone} has ended" if gone else "another one has ended, or cannot be reached"
        if memory and not said:
            why += ", and the system has ended one for lack of memory"
        return [*said, f"{self.name(self.rank)} ends, as {why}{self.advice()}"]

    def how_to_go_on(self) -> str:
        """The update that the run goes on from, and the command; empty where the run has no folder."""
        if self.directory is None:
            return ""
        return f"{where_to_go_on(self.directory)}: {how_to_go_on(self.directory, self.folder_is_named)}"

    def advice(self) -> str:
        """The end of a line, how to go on, for the first process, or all, where it is the one that has ended."""
        mine = self.trains and (self.rank == 0 or any(rank == 0 for rank, _ in self.lost))
        return f"; {self.how_to_go_on()}" if mine and self.directory is not None else ""

    def name(self, rank: int) -> str:
        """The name of a process."""
        return f"process {rank} of {self.world}" if self.world > 1 else f"process {rank}"

    def own_line(self, error: BaseException, words: str | None) -> str:
        """The line about an error of this process.

        Args:
            error: the error.
            words: what there is to be said of it; None of a bug, whose traceback is kept in the run's folder.
        """
        if words is None:
            words = f"{type(error).__name__}: {cut(str(error), 150)}"
            if self.directory is not None:
                file = self.directory / f"traceback-{self.rank}.txt"
                try:
                    file.write_text("".join(traceback.format_exception(error)))
                    words += f", see {os.path.relpath(file)}"
                except OSError as reason:
                    words += f", and {file} cannot be written: {reason.strerror}"
        return f"{self.name(self.rank)}: {words}{self.advice()}"


def broke_connection(error: BaseException) -> bool:
    """Whether an error was raised by a collective: all that fails in one is what connects it to the others."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    inside = bool(frames) and f"{frames[-1].f_globals.get('__name__')}.".startswith("torch.distributed.")
    return inside and isinstance(error, RuntimeError)


def signal_of(status: int) -> str:
    """The name of the signal behind a negative exit status."""
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
