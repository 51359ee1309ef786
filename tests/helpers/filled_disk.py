"""A callback that fills the disk of a run at a moment, by the file that `tests/kill/full.c` looks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, Trainer


class Fill(Callback):
    """Makes a file in front of an update, or at the end of training.

    Args:
        file: the file.
        updates: updates that come before; -1 for the end, 0 for the time before data are collected.
    """

    def __init__(self, file: str, updates: int) -> None:
        self.file = Path(file)
        self.updates = updates

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        if self.updates == 0:
            self.file.touch()

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.updates:
            self.file.touch()

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        if self.updates < 0:
            self.file.touch()
