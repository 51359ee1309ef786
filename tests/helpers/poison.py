"""A callback of a run that spoils one update: its batch, as a broken file or simulator would, or a weight before it."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor


class Poison(Callback):
    """Makes every real number of the batch of one update NaN, or the weights.

    Args:
        update: number of updates before it.
        weights: the weights, where the agent reads no real number that could be NaN.
    """

    def __init__(self, update: int, weights: bool = False) -> None:
        self.update = update
        self.weights = weights

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if pl_module.updates != self.update:
            return
        if self.weights:
            for weight in pl_module.parameters():
                spoiled(weight.data)
        else:
            batch.apply_(spoiled)


def spoiled(x: Tensor) -> Tensor:
    """The tensor, whose real numbers are NaN now."""
    return x.fill_(float("nan")) if x.is_floating_point() else x
