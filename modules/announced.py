"""What the parts of a run announce to each other under agreed names, through the trainer that holds them all."""

from __future__ import annotations

from typing import Any


def announced(trainer: Any, name: str) -> Any:
    """What the first callback, else the datamodule, announces under a name; None where none does.

    A callback that evaluates comes before the data: the environment that it plays in is the one that scores are of.

    Args:
        trainer: of the run.
        name: `environment_spec`, what makes the environment; `info`, what is known about the dataset.
    """
    parts = (*trainer.callbacks, getattr(trainer, "datamodule", None))
    return next((found for part in parts if (found := getattr(part, name, None)) is not None), None)
