"""Wall time: how long each part of training takes, evaluation and checkpoints included."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from modules.agent.agent import agent_of
from modules.run import run_of
from modules.wall_time import taken


class WallTime(Callback):
    """Logs `time/ACTIVITY` every `log_every_n_steps` updates: milliseconds per update since the metrics before.

    Together they are the time that has passed. See `modules.wall_time.timed` for what makes an activity.
    """

    def __init__(self) -> None:
        self._updates = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Time before training is no part of it."""
        self._updates = agent_of(pl_module).updates
        taken()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % run_of(trainer).log_every_n_steps:
            return
        agent = agent_of(pl_module)
        count, self._updates = agent.updates - self._updates, agent.updates
        agent.log_metrics({f"time/{activity}": 1e3 * spent / count for activity, spent in taken().items()})
