"""MLflowRun: what a run's page holds besides metrics: config, code, versions, data, results and checkpoints."""

from __future__ import annotations

import csv
import json
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from callbacks.mlflow_logger import MLflowLogger
from datamodules.dataset_info import DatasetInfo
from modules.algorithms.agent import Agent
from modules.announced import announced

PACKAGES = ("torch", "torchrl", "tensordict", "pytorch-lightning", "gymnasium", "mujoco", "numpy", "minari", "mlflow")


class MLflowRun(Callback):
    """Fills the page of a run that is logged with `MLflowLogger`; does nothing without that logger.

    At the start: the resolved `config.yaml`, git commit and whether the checkout differs from it, package versions, the
    dataset (content hash, name, source, card) as an MLflow dataset, what makes the environment that is evaluated in
    (`environment.json`), and a child run per member. At the end: the evaluation table, figures, and the
    best and last checkpoints. Everything goes through the logger's background thread.

    Args:
        upload_checkpoints: copy `best.ckpt` and `last.ckpt` to the run's artifacts at the end.
        system_metrics: log CPU, memory and GPU use every ten seconds.
    """

    def __init__(self, upload_checkpoints: bool = True, system_metrics: bool = False) -> None:
        self.upload_checkpoints = upload_checkpoints
        self.system_metrics = system_metrics
        self._monitor: Any = None  # MLflow's class: naming it in an annotation would import MLflow at every start

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record what the run is made of."""
        logger = _logger(trainer)
        if logger is None:
            return
        assert isinstance(pl_module, Agent)
        logger.register_members(pl_module.member_names)
        tags = {"agent": f"{type(pl_module).__module__}.{type(pl_module).__qualname__}", **code_version()}
        logger.put("tags", values=tags | {f"version/{name}": version for name, version in package_versions().items()})
        installed = sorted(f"{d.name}=={d.version}" for d in metadata.distributions())
        logger.put("text", text="\n".join(installed) + "\n", path="packages.txt")
        info = getattr(trainer.datamodule, "info", None)  # type: ignore[attr-defined]
        if isinstance(info, DatasetInfo):
            logger.put("dataset", dataset=dataset_record(info))
            logger.put("tags", values={"dataset": info.name, "dataset/content_hash": info.content_hash})
            logger.put("text", text=info.card, path="dataset_card.md")
        spec = announced(trainer, "environment_spec")
        if spec is not None:
            logger.put("tags", values={"environment": spec.id})
            logger.put("text", text=json.dumps(spec.to_plain(), indent=2) + "\n", path="environment.json")
        _put_files(logger, [Path(trainer.default_root_dir) / "config.yaml"])
        if self.system_metrics:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            self._monitor = SystemMetricsMonitor(logger.run_id, resume_logging=True, tracking_uri=logger.tracking_uri)
            self._monitor.start()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record what came out."""
        logger = _logger(trainer)
        if logger is None:
            return
        folder = Path(trainer.default_root_dir)
        table = folder / "evaluation.csv"
        if table.is_file():
            logger.put("text", text=table_json(table), path="evaluation.json")
            # The UI shows a JSON artifact as a table when this tag names it.
            logged = json.dumps([{"path": "evaluation.json", "type": "table"}])
            logger.put("tags", values={"mlflow.loggedArtifacts": logged})
        # Again, as a continued run may have been started before its config was written.
        _put_files(logger, [folder / "config.yaml", table, *sorted(folder.glob("*.png"))])
        if self.upload_checkpoints:
            _put_files(logger, [folder / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")], "checkpoints")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stop_monitor()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop_monitor()

    def _stop_monitor(self) -> None:
        if self._monitor is not None:
            self._monitor.finish()
            self._monitor = None


def _logger(trainer: Trainer) -> MLflowLogger | None:
    """The MLflow logger, on the first process only."""
    if not trainer.is_global_zero:
        return None
    return next((logger for logger in trainer.loggers if isinstance(logger, MLflowLogger)), None)


def _put_files(logger: MLflowLogger, paths: list[Path], folder: str | None = None) -> None:
    for path in paths:
        if path.is_file():
            logger.put("file", source=str(path), folder=folder)


def code_version() -> dict[str, str]:
    """Commit of the checkout that this code runs from, and whether files differ from it; empty outside of one."""
    root = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    top, commit = git("rev-parse", "--show-toplevel"), git("rev-parse", "--verify", "HEAD")
    if top is None or commit is None or Path(top).resolve() != root:  # installed inside a checkout of something else
        return {}
    return {"mlflow.source.git.commit": commit, "git.dirty": str(git("status", "--porcelain") != "").lower()}


def package_versions() -> dict[str, str]:
    """Versions of the packages whose change may change results, and of python."""
    installed = {d.name: d.version for d in metadata.distributions(name=None) if d.name in PACKAGES}
    return {"python": platform.python_version(), **installed}


def dataset_record(info: DatasetInfo) -> dict[str, Any]:
    """Fields of an MLflow dataset; the digest is cut to the 36 characters that MLflow keeps."""
    profile = {
        "transitions": info.transitions,
        "episodes": info.episodes,
        "mean_return": float(info.episode_returns.mean()) if len(info.episode_returns) else None,
        "content_hash": info.content_hash,
    }
    return {
        "name": info.name,
        "digest": info.content_hash[:36],
        "source_type": "local",
        "source": json.dumps({"name": info.name, "environment": info.environment}),
        "profile": json.dumps(profile),
    }


def table_json(path: Path) -> str:
    """A CSV file in the JSON layout that MLflow's UI shows as a table."""
    with path.open(newline="") as file:
        columns, *rows = csv.reader(file)
    return json.dumps({"columns": columns, "data": rows})
