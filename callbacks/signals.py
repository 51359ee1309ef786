"""Signals that end a run in good order, and what a person does to go on with it."""

from __future__ import annotations

import os
import shlex
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.exceptions import SIGTERMException

from modules.agent.lightning_private import end_after_update
from modules.run import run_of
from modules.stop import Stop

STOPS = (signal.SIGTERM, signal.SIGHUP)

REPEATED_AFTER = 5.0
"""Seconds after which a signal that comes again is another one; what sends them often sends the first one twice."""

AGREE_EVERY = 10
"""Updates after which the processes of a run ask each other whether one was told to stop, at most."""

LAST = "checkpoints/last.ckpt"
"""Where a run's folder has the checkpoint that it goes on from."""

AGREE_SECONDS = 1.0
"""Seconds after which they ask instead, where updates are slow."""


class StoppedBySignal(SIGTERMException, Stop):
    """A run is told to stop: Lightning ends it in good order, and environments take it for no failure of theirs."""


class StopSignals(Callback):
    """Ends a run in good order at SIGTERM, which job systems send, and at SIGHUP, which a closed terminal sends.

    While a run trains, the update in progress is completed and `last.ckpt` is written; with several processes, all stop
    behind the same update, whichever got the signal, about a second or `AGREE_EVERY` updates later. Before and after,
    when there is nothing new to be kept, a run stops at once. A signal that comes again more than `REPEATED_AFTER`
    seconds later ends the process in any case. A signal that was ignored from the start, as `nohup` has it, stays so.

    Processes that a run starts by forking, such as those of environments, end at once. So do all but the first process
    of a run before and after they train: they wait for it within calls that no handler can interrupt.

    Args:
        first: whether this is the first process of the run.
        numbers: signals that end the run.
    """

    def __init__(self, first: bool = True, numbers: Sequence[signal.Signals] = STOPS) -> None:
        self._first = first
        self._numbers = numbers
        self.received: signal.Signals | None = None
        self._training = False
        self._leaving = False
        self._first_at = 0.0
        self._agreed_at = 0.0
        self._updates = 0  # since the processes agreed
        self._wait = 1  # updates until they agree again
        self._before: dict[signal.Signals, Any] = {}
        self._process = os.getpid()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals, as long as the context is open; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        found = {number: signal.getsignal(number) for number in self._numbers}
        self._before = {number: handler for number, handler in found.items() if handler is not signal.SIG_IGN}
        if self._first:
            self._handle()
        try:
            yield
        finally:
            self._restore()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop between two updates from now on."""
        # Lightning has put its own handler in front. With several processes that one calls collectives in the middle of
        # whatever the process was doing.
        self._handle()
        self._training = True
        self._agreed_at = time.monotonic()
        self._updates = 0
        self._wait = 1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Let Lightning end the run behind this update, if any process was told to stop."""
        self._updates += 1
        # An evaluation may follow the last update of an epoch, and last longer than a job system waits.
        if (self._updates >= self._wait or trainer.is_last_batch) and self._told_to_stop(trainer):
            end_after_update(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop at once from now on: the last checkpoint is written."""
        self._training = False
        if self._told_to_stop(trainer):
            raise StoppedBySignal
        if not self._first:
            self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave signals alone from now on: the run ends already."""
        self._leaving = True

    def _told_to_stop(self, trainer: Trainer) -> bool:
        """Whether any process was; all of them call this behind the same update, and agree on the next one."""
        told = self.received is not None
        if trainer.world_size == 1:
            return told
        now = time.monotonic()
        seconds = (now - self._agreed_at) / max(self._updates, 1)
        mine = torch.tensor([float(told), seconds], device=trainer.strategy.root_device)
        some, slowest = trainer.strategy.reduce(mine, reduce_op="max").tolist()
        self._agreed_at = now
        self._updates = 0
        self._wait = int(min(max(AGREE_SECONDS / max(slowest, 1e-9), 1), AGREE_EVERY))
        return bool(some)

    def _handle(self) -> None:
        for number in self._before:
            signal.signal(number, self._on_signal)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            _die_of(number)
            return
        now = time.monotonic()
        if self.received is None:
            self.received = signal.Signals(number)
            self._first_at = now
        elif now - self._first_at > REPEATED_AFTER:  # whatever holds the process does not let it go
            _die_of(number)
        if not self._training and not self._leaving:
            self._leaving = True
            raise StoppedBySignal


def _die_of(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def signal_name(trainer: Trainer, exception: BaseException) -> str | None:
    """The name of the signal that ended a run, or None where something else ended it."""
    if isinstance(exception, KeyboardInterrupt):
        return "Ctrl-C"
    if not isinstance(exception, SIGTERMException):
        return None
    callbacks = run_of(trainer).callbacks
    received = next((c.received for c in callbacks if isinstance(c, StopSignals)), None)
    return (received or signal.SIGTERM).name


def how_to_go_on(directory: Path, named: bool = False) -> str:
    """The command that continues the run in a folder, or starts it anew where it has no checkpoint.

    Args:
        directory: folder of the run.
        named: `REVERIE_RUN_DIR` names the folder, in which a run starts with `--ckpt_path last` alone by now.
    """
    config, last = (_from_here(directory / name) for name in ("config.yaml", LAST))
    command = f"reverie fit --config {config}"
    if (directory / LAST).is_file():
        return f"{command} --ckpt_path {last}"
    return f"{command} --ckpt_path last" if named else command


def where_to_go_on(directory: Path) -> str:
    """The words before that command: the update of the checkpoint, which Ctrl-C does not write anew."""
    try:
        kept = torch.load(directory / LAST, "cpu", weights_only=True, mmap=True)["global_step"]
    except FileNotFoundError:
        return "to start anew"
    except Exception:  # of a damaged file; reading it to go on says more
        return "to go on"
    return f"to go on from update {kept:,}"


def _from_here(path: Path) -> str:
    """The path from the working directory where that is shorter, for a shell."""
    relative = os.path.relpath(path)
    return shlex.quote(str(path) if relative.startswith("..") else relative)
