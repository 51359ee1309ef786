"""The last lines of a run besides its returns: its environment, and the places of its files."""

from __future__ import annotations

from pathlib import Path

from pytorch_lightning import Trainer

from callbacks.evaluation.played_environment import Played
from callbacks.files.keepers import keepers
from datamodules.envs.make import EnvironmentSpec
from datamodules.recorded.dataset_info import DatasetInfo
from modules.agent.trust_region import JudgesTrust
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
    agent = trainer.lightning_module
    verdict = agent.judge(trainer.callback_metrics) if isinstance(agent, JudgesTrust) else None
    # Of a run that had nothing left to train, nothing was validated.
    verdict = verdict or getattr(trainer.checkpoint_callback, "verdict", None)
    if verdict is not None:
        lines["trust"] = verdict.told if verdict.trusted else f"{verdict.told}: {_advice(trainer)}"
    checkpoint = kept_checkpoint(trainer, "best") or getattr(trainer.checkpoint_callback, "last_model_path", None)
    if checkpoint:
        lines["checkpoint"] = str(checkpoint)
    lines |= Played(spec, info).footer
    lines["run"] = str(Path(trainer.default_root_dir))
    for logger in keepers(trainer):
        lines["curves"] = logger.how_to_open()
    return lines


def kept_checkpoint(trainer: Trainer, kind: str) -> Path | None:
    """The file that the checkpoint callback keeps of the `best` or of the last `trusted` policy, or None."""
    path = getattr(trainer.checkpoint_callback, f"{kind}_model_path", "")
    return Path(path) if path and Path(path).is_file() else None


def _advice(trainer: Trainer) -> str:
    """The policy to use instead of one that has left the data."""
    path = kept_checkpoint(trainer, "trusted")
    kept = f"the last policy that can be is {path}" if path else "no policy of this run can be"
    return f"it has left the data, and its value cannot be trusted; {kept}"


def environment_steps(data: object) -> int:
    """Steps that all processes have collected so far for a datamodule; 0 for data that are not collected."""
    return data.environment_steps if isinstance(data, CountsSteps) else 0
