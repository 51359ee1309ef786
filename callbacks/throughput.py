"""Throughput: updates and transitions per second of wall time, evaluation left out."""

from __future__ import annotations

import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from modules.agent.agent import Agent
from modules.run import run_of


class Throughput(Callback):
    """Logs `throughput/updates_per_second` and `throughput/transitions_per_second` every `log_every_n_steps` updates.

    Transitions are counted over all processes. Time between epochs (evaluation, checkpoints) is not counted.
    """

    def __init__(self) -> None:
        self._since = 0.0
        self._updates = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.perf_counter()
        self._updates = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count, and log in step with the agent's own metrics."""
        self._updates += 1
        if trainer.global_step % run_of(trainer).log_every_n_steps:
            return
        now = time.perf_counter()
        rate = self._updates / (now - self._since)
        self._since = now
        self._updates = 0
        assert isinstance(pl_module, Agent)
        pl_module.log_metrics(
            {
                "throughput/updates_per_second": rate,
                "throughput/transitions_per_second": rate * batch.numel() * trainer.world_size,
            }
        )
