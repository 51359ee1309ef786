"""The last lines of a run besides its returns: its environment, and the places of its files."""

from __future__ import annotations

from pathlib import Path

from pytorch_lightning import Trainer

from callbacks.evaluation.played_environment import Played
from callbacks.files.keepers import keepers
from datamodules.envs.make import EnvironmentSpec
from datamodules.recorded.dataset_info import DatasetInfo
from modules.contracts import CountsSteps
from modules.run import run_of


def subject(trainer: Trainer, info: DatasetInfo | None, spec: EnvironmentSpec | None) -> str:
    """Name of the data that the agent was trained on: dataset, environment, or else the kind of data."""
    if info is not None:
        return info.name
    return spec.id if spec is not None else type(run_of(trainer).datamodule).__name__


def footer(trainer: Trainer, info: DatasetInfo | None, spec: EnvironmentSpec | None) -> dict[str, str]:
    """The lines under the table, by name."""
    lines: dict[str, str] = {}
    checkpoint = best_checkpoint(trainer) or getattr(trainer.checkpoint_callback, "last_model_path", None)
    if checkpoint:
        lines["checkpoint"] = str(checkpoint)
    lines |= Played(spec, info).footer
    lines["run"] = str(Path(trainer.default_root_dir))
    for logger in keepers(trainer):
        lines["curves"] = logger.how_to_open()
    return lines


def best_checkpoint(trainer: Trainer) -> Path | None:
    """The file that the checkpoint callback holds for the best one, or None when it never wrote any."""
    path = getattr(trainer.checkpoint_callback, "best_model_path", "")
    return Path(path) if path and Path(path).is_file() else None


def environment_steps(data: object) -> int:
    """Steps that all processes have collected so far for a datamodule; 0 for data that are not collected."""
    return data.environment_steps if isinstance(data, CountsSteps) else 0
