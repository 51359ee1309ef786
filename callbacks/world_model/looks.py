"""A callback that looks at the agent's model every so many epochs, and leaves training as it would be without."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from callbacks.files.keepers import keepers
from modules.agent.agent import Agent
from modules.agent.random_state import isolated_randomness
from modules.arguments.checks import check_seed, check_sizes
from modules.experts.parallel import whole_experts
from modules.run import run_of

FOLDER = "world_model"
"""Folder of what is written, in the run's folder and among its artifacts."""


class RegularLook(Callback):
    """Looks every so many epochs and when training ends, on the first process, with randomness of its own.

    A subclass defines `check_run`, `look` and `write`.

    Args:
        every_n_epochs: epochs between two looks; there is one more when training ends.
        seed: seed of all that a look draws.
    """

    def __init__(self, every_n_epochs: int, seed: int) -> None:
        check_sizes(every_n_epochs=every_n_epochs)
        check_seed(seed=seed)
        self.every_n_epochs = every_n_epochs
        self.seed = seed
        self._looked = -1  # updates at the last look

    @abstractmethod
    def check_run(self, trainer: Trainer, agent: LightningModule, data: object) -> None:
        """Refuse agents and data that cannot take part, by a `ValueError`."""

    @abstractmethod
    def look(self, trainer: Trainer, agent: Agent) -> Any:
        """Look at the agent, which is in evaluation mode, without gradients."""

    @abstractmethod
    def write(self, found: Any, agent: Agent, folder: Path) -> tuple[list[Path], dict[str, float]]:
        """Write files about what was found into a folder; their paths, and metrics."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.check_run(trainer, pl_module, run_of(trainer).datamodule)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._report(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Agent)
        if self._looked != pl_module.updates:
            self._report(trainer, pl_module)

    def _report(self, trainer: Trainer, agent: LightningModule) -> None:
        assert isinstance(agent, Agent)
        self._looked = agent.updates
        with whole_experts(agent):
            if not trainer.is_global_zero:
                return
            found = self._found(trainer, agent)
        files, metrics = self.write(found, agent, Path(trainer.default_root_dir) / FOLDER)
        agent.log_metrics(metrics)
        for logger in keepers(trainer):
            for file in files:
                logger.put_file(file, FOLDER)

    def _found(self, trainer: Trainer, agent: Agent) -> Any:
        was_training = agent.training
        agent.eval()
        try:
            with isolated_randomness(self.seed, agent.device), torch.no_grad():
                return self.look(trainer, agent)
        finally:
            agent.train(was_training)


def named(folder: Path, name: str, agent: Agent, ending: str) -> Path:
    """File about something after so many updates."""
    return folder / f"{name.replace('/', '_')}_{agent.updates:08d}.{ending}"
