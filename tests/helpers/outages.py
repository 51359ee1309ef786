"""A callback of a run that lets a test do something to its store at certain moments, and counts how long it waits."""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, Trainer

from callbacks.mlflow.logger import MLflowLogger

WAITS = ("log_metrics", "log_hyperparams", "put", "secure", "finalize", "register_members")
"""All that a run asks of its logger, beside `experiment`."""


def busy() -> float:
    """Seconds that this thread has computed, or has waited for a processor that computed something else."""
    nanoseconds = Path("/proc/thread-self/schedstat").read_text().split()
    return (int(nanoseconds[0]) + int(nanoseconds[1])) / 1e9


class Moments(Callback):
    """Tells a test of the `start`, of update 12 and 22, and of the `end`, and goes on when the test answers.

    Args:
        address: socket of the test; an empty one for nobody.
        file: takes the seconds that training has waited for its logger, and not for a processor.
    """

    def __init__(self, address: str, file: str) -> None:
        self.address = address
        self.file = Path(file)
        self.seconds = 0.0
        self.inside = False
        for name in WAITS:
            setattr(MLflowLogger, name, self.timed(getattr(MLflowLogger, name)))
        opened = MLflowLogger.experiment.fget  # type: ignore[attr-defined]
        MLflowLogger.experiment = property(self.timed(opened))  # type: ignore[assignment, method-assign]

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose outermost calls in the first thread are timed."""

        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            if self.inside or threading.current_thread() is not threading.main_thread():
                return function(*arguments, **named)
            began, self.inside = time.monotonic() - busy(), True
            try:
                return function(*arguments, **named)
            finally:
                self.inside = False
                self.seconds += time.monotonic() - busy() - began
                self.file.write_text(json.dumps(self.seconds))

        return call

    def tell(self, moment: str) -> None:
        """Wait until the test has done what it does then."""
        if self.address:
            with Client(self.address) as test:
                test.send(moment)
                test.recv()

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.tell("start")

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step in (12, 22):
            self.tell(str(trainer.global_step))

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.tell("end")
