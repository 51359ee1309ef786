"""Collection: what a run that collects its own data says about its episodes and its pace."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from modules.agent.any_module import send_metrics
from modules.contracts import ReportsCollection
from modules.run import run_of


class Collection(Callback):
    """Logs the datamodule's `collection_metrics()` every `log_every_n_steps` updates, in step with the agent's own.

    They are numbers by name, such as `collection/return`. Silent for data that are not collected.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % run_of(trainer).log_every_n_steps:
            return
        data = run_of(trainer).datamodule
        if isinstance(data, ReportsCollection):
            send_metrics(trainer, pl_module, data.collection_metrics())
