"""Counter, metrics and log of any LightningModule, so that callbacks of ours serve those that are no agents, too."""

from __future__ import annotations

from collections.abc import Mapping

from pytorch_lightning import LightningModule, Trainer

from modules.agent.agent import Agent


def updates_of(trainer: Trainer, module: LightningModule) -> int:
    """Updates so far: an agent's own counter, else the steps of optimisers that Lightning has counted."""
    return module.updates if isinstance(module, Agent) else trainer.global_step


def latest_metrics_of(trainer: Trainer, module: LightningModule) -> dict[str, float]:
    """The newest value of each metric: what an agent has read back, else what `self.log` was given."""
    if isinstance(module, Agent):
        return module.latest_metrics
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def send_metrics(trainer: Trainer, module: LightningModule, values: Mapping[str, float]) -> None:
    """Send named values to every logger, at the counter of `updates_of`."""
    if isinstance(module, Agent):
        module.log_metrics(values)
        return
    for logger in trainer.loggers:
        logger.log_metrics(dict(values), step=trainer.global_step)
