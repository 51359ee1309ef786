"""Loggers that keep files of a run beside its metrics, as MLflow does."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from pytorch_lightning import Trainer


@runtime_checkable
class KeepsFiles(Protocol):
    """The part of a logger that files are given to."""

    def put_file(self, source: Path, folder: str | None = None) -> None:
        """Keep a file of the run, in a folder of the logger's own store or beside all others."""

    def secure(self) -> None:
        """Return when the disk has all that was logged so far."""

    def how_to_open(self) -> str:
        """Where a person finds the run."""


def keepers(trainer: Trainer) -> list[KeepsFiles]:
    """Those loggers of a run that keep files."""
    return [logger for logger in trainer.loggers if isinstance(logger, KeepsFiles)]
