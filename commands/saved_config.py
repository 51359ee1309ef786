"""The resolved config of a run, and how it was started, in its folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.cli import SaveConfigCallback

from commands.run_origin import add_start


class SaveConfig(SaveConfigCallback):
    """Writes the resolved config, and the command line, to the run's folder, whatever the logger.

    Args:
        command: the command line.
        *args: those of Lightning's callback.
        **kwargs: the same.
    """

    def __init__(self, command: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.command = command

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write `config.yaml`; a run that is continued with other arguments keeps the newest. All starts are told."""
        os.makedirs(trainer.default_root_dir, exist_ok=True)
        path = os.path.join(trainer.default_root_dir, self.config_filename)
        # What was parsed is not checked again, which takes as long as parsing.
        self.parser.save(self.config, path, skip_unset=False, skip_validation=True, overwrite=True, multifile=False)
        add_start(Path(trainer.default_root_dir), self.command)
