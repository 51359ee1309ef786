"""A callback for runs that tests start through the command line: records what every rank saw and became."""

from __future__ import annotations

import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from modules.batch import by_name


class Recorder(Callback):
    """Writes `rank<r>.pt` at the end: parameters, batches, metrics; may kill its own process after some updates.

    Or it copies `runs/whole` to `runs/cut` after some updates, as a kill would leave it, and the run goes on.
    """

    def __init__(self, folder: str, kill_after: int = 0, copy_after: int = 0) -> None:
        self.folder = Path(folder)
        self.kill_after = kill_after
        self.copy_after = copy_after
        self.batches: list[dict[str, torch.Tensor]] = []
        self.curve: list[tuple[int, dict[str, float]]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.batches.append({k: v.clone() for k, v in by_name(batch).items()})

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        own = f"{type(pl_module).__name__.lower()}/"  # no measured times
        metrics = {k: v for k, v in pl_module.latest_metrics.items() if k.startswith(own)}  # type: ignore[operator, union-attr]
        self.curve.append((pl_module.updates, metrics))  # type: ignore[arg-type]
        if pl_module.updates == self.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        if pl_module.updates == self.copy_after:
            shutil.copytree("runs/whole", "runs/cut", symlinks=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {
            "state": pl_module.state_dict(),
            "optimizers": [o.state_dict() for o in trainer.optimizers],
            "phase": pl_module.phase,  # type: ignore[union-attr]
            "updates": pl_module.updates,
            "global_step": trainer.global_step,
            "batches": self.batches,
            "curve": self.curve,
            "rng": [torch.rand(4), torch.from_numpy(np.random.rand(4)), torch.tensor([random.random()])],
            "rank_state": pl_module.rank_state(),  # type: ignore[operator]
            "callbacks": {type(callback).__name__: callback.state_dict() for callback in trainer.callbacks},  # type: ignore[attr-defined]
        }
        torch.save(content, self.folder / f"rank{trainer.global_rank}.pt")
