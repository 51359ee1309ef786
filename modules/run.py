"""A run as its parts see it: the trainer that holds them all, and what they announce through it."""

from __future__ import annotations

import math
from typing import Protocol, cast

from pytorch_lightning import Callback, Trainer

from modules.contracts import DatasetFacts, HasDataset, HasEnvironment, PlainEnvironment


class Run(Protocol):
    """Public attributes of Lightning's Trainer that its connectors set, so that its class does not declare them.

    Attributes:
        callbacks: all of them, in their order.
        datamodule: None where there is none.
        fast_dev_run: a dry run of one batch, or of so many.
        log_every_n_steps: updates between two metrics.
        overfit_batches: the first batches that are repeated, by number or as a share; 0 for none.
    """

    callbacks: list[Callback]
    datamodule: object
    fast_dev_run: int | bool
    log_every_n_steps: int
    overfit_batches: int | float


def run_of(trainer: Trainer) -> Run:
    """The trainer, with the attributes that its class does not declare."""
    return cast(Run, trainer)


def total_updates(trainer: Trainer, begun: int) -> int | None:
    """Updates until the end of training, where `max_steps` or `max_epochs` gives one.

    They are counted from where the run is: a continued run may have had epochs of another length before.

    Args:
        trainer: trainer at its first batch.
        begun: batches of the current epoch that were trained on before.
    """
    limits = []
    if trainer.max_steps >= 0:
        limits.append(trainer.max_steps)
    if trainer.max_epochs is not None and trainer.max_epochs >= 0 and math.isfinite(trainer.num_training_batches):
        left = (trainer.max_epochs - trainer.current_epoch) * int(trainer.num_training_batches) - begun
        limits.append(trainer.global_step + left)
    return min(limits, default=None)


def announced_environment(trainer: Trainer) -> PlainEnvironment | None:
    """The environment of the first callback, else of the data, that has one; None where none has.

    A callback that evaluates comes before the data: the environment that it plays in is the one that scores are of.
    """
    specs = (part.environment_spec for part in _parts(trainer) if isinstance(part, HasEnvironment))
    return next((spec for spec in specs if spec is not None), None)


def announced_dataset(trainer: Trainer) -> DatasetFacts | None:
    """The dataset of the first callback, else of the data, that knows one; None where none does."""
    infos = (part.info for part in _parts(trainer) if isinstance(part, HasDataset))
    return next((info for info in infos if info is not None), None)


def _parts(trainer: Trainer) -> tuple[object, ...]:
    run = run_of(trainer)
    return *run.callbacks, run.datamodule
