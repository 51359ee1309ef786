"""Lightning's `overfit_batches` for loaders that never end: the same few batches in every epoch."""

from __future__ import annotations

from pytorch_lightning import Trainer


def repeated_batches(trainer: Trainer | None, length: int) -> int | None:
    """Batches after which the same ones come again, of an epoch of `length`; None where all are new.

    Raises:
        ValueError: a share of the epoch that is less than one batch.
    """
    wanted = 0 if trainer is None else trainer.overfit_batches  # type: ignore[attr-defined]  # set by a connector
    if not wanted:
        return None
    count = min(wanted, length) if isinstance(wanted, int) else int(wanted * length)
    if count < 1:
        raise ValueError(f"trainer.overfit_batches: {wanted} of an epoch of {length} batches is less than one batch")
    return count
