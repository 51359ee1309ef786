"""The resolved config of a run, in its folder."""

from __future__ import annotations

import os

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.cli import SaveConfigCallback


class SaveConfig(SaveConfigCallback):
    """Writes the resolved config to the run's folder, whatever the logger."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write `config.yaml`; a run that is continued with other arguments keeps the newest."""
        os.makedirs(trainer.default_root_dir, exist_ok=True)
        path = os.path.join(trainer.default_root_dir, self.config_filename)
        # What was parsed is not checked again, which takes as long as parsing.
        self.parser.save(self.config, path, skip_unset=False, skip_validation=True, overwrite=True, multifile=False)
