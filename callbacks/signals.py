"""Signals that end a run in good order, and what a person does to go on with it."""

from __future__ import annotations

import os
import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.exceptions import SIGTERMException

STOPS = (signal.SIGTERM, signal.SIGHUP)


class StopSignals(Callback):
    """Ends a run in good order at SIGTERM, which job systems send, and at SIGHUP, which a closed terminal sends.

    While a run trains, the update in progress is completed and `last.ckpt` is written; with several processes, all stop
    behind the same update, whichever got the signal. Before and after, when there is nothing new to be kept, a run
    stops at once. A signal that was ignored from the start, as `nohup` has it, stays so.

    Processes that a run starts by forking, such as those of environments, end at once. So do all but the first process
    of a run before and after they train: they wait for it within calls that no handler can interrupt.

    Args:
        first: whether this is the first process of the run.
    """

    def __init__(self, first: bool = True) -> None:
        self._first = first
        self.received: signal.Signals | None = None
        self._training = self._leaving = False
        self._before: dict[signal.Signals, Any] = {}
        self._process = os.getpid()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals, as long as the context is open; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        found = {number: signal.getsignal(number) for number in STOPS}
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

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Let Lightning end the run behind this update, if any process was told to stop."""
        if self._told_to_stop(trainer):
            trainer._signal_connector.received_sigterm = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop at once from now on: the last checkpoint is written."""
        self._training = False
        if self._told_to_stop(trainer):
            raise SIGTERMException
        if not self._first:
            self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Whatever ended the run is being dealt with."""
        self._leaving = True

    def _told_to_stop(self, trainer: Trainer) -> bool:
        told = self.received is not None
        return trainer.strategy.reduce_boolean_decision(told, all=False) if trainer.world_size > 1 else told

    def _handle(self) -> None:
        for number in self._before:
            signal.signal(number, self._on_signal)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.received = self.received or signal.Signals(number)
        if not self._training and not self._leaving:
            self._leaving = True
            raise SIGTERMException


def signal_name(trainer: Trainer, exception: BaseException) -> str | None:
    """What the signal that ended a run is called, or None where something else ended it."""
    if isinstance(exception, KeyboardInterrupt):
        return "Ctrl-C"
    if not isinstance(exception, SIGTERMException):
        return None
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    received = next((c.received for c in callbacks if isinstance(c, StopSignals)), None)
    return (received or signal.SIGTERM).name


def how_to_go_on(directory: Path) -> str:
    """The command that continues the run in a folder, or starts it anew where it has no checkpoint."""
    config, last = (_short(directory / name) for name in ("config.yaml", "checkpoints/last.ckpt"))
    command = f"reverie fit --config {config}"
    if not (directory / "checkpoints/last.ckpt").is_file():
        return command
    return f"{command} --ckpt_path {last}"


def _short(path: Path) -> str:
    """The path from the working directory where that is shorter, for a shell."""
    relative = os.path.relpath(path)
    return shlex.quote(str(path) if relative.startswith("..") else relative)
