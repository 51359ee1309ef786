"""MLflowRun: what a run's page holds besides metrics: config, code, versions, data, results and checkpoints."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn

from callbacks.evaluation.evaluation import Evaluation
from callbacks.evaluation.report import markdown
from callbacks.mlflow.logger import MLflowLogger
from callbacks.mlflow.provenance import installed_packages, origin_tags, package_versions, settings, without_secrets
from callbacks.mlflow.system import start_monitor
from callbacks.signals import how_to_go_on, signal_name, where_to_go_on
from datamodules.recorded.dataset_info import DatasetInfo
from modules.agent.agent import Agent
from modules.contracts import HasDataset
from modules.run import announced_dataset, announced_environment, run_of

FIRST = ("label", "updates", "mean", "low", "high")
"""Columns of the table of scores that are read first."""


class MLflowRun(Callback):
    """Fills the page of a run that is logged with `MLflowLogger`; does nothing without that logger.

    At the start: the resolved `config.yaml`, as a file and as parameters, the seed, command line, person, git commits
    and whether the checkouts differ from them, package versions, the dataset (content hash, name, source, card) as an
    MLflow dataset, what makes the environment that is evaluated in (`environment.json`), and a child run per
    member. At the end: the evaluation table, figures, and the best and last checkpoints. The run's description tells
    how to repeat the run and how to go on with it, what ended it before its time, and holds the table at the end.
    Everything goes through the logger's background thread.

    Args:
        upload_checkpoints: copy the checkpoints (last, best, trusted, cloned) to the run's artifacts at the end.
        system_metrics: log CPU, memory and GPU use every ten seconds.
    """

    def __init__(self, upload_checkpoints: bool = True, system_metrics: bool = False) -> None:
        self.upload_checkpoints = upload_checkpoints
        self.system_metrics = system_metrics
        self.command: str | None = None
        self.folder_is_named = False  # by `REVERIE_RUN_DIR`
        self._monitor: Any = None  # MLflow's class: naming it in an annotation would import MLflow at every start

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Come after the checkpoint, which Lightning puts last: the page tells of the one that a signal makes."""
        run = run_of(trainer)
        others = [callback for callback in run.callbacks if callback is not self]
        run.callbacks = [*others, self]  # another list: this one is gone through

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record what the run is made of."""
        logger = _logger(trainer)
        if logger is None:
            return
        assert isinstance(pl_module, Agent)
        logger.register_members(pl_module.member_names)
        tags = {"agent": f"{type(pl_module).__module__}.{type(pl_module).__qualname__}", **origin_tags(self.command)}
        tags |= {f"version/{name}": version for name, version in package_versions().items()}
        config = Path(trainer.default_root_dir) / "config.yaml"
        chosen = settings(config) if config.is_file() else {}
        for member in ("", *filter(None, pl_module.member_names)):
            logger.put("tags", member, values=tags)
            # A member's own seed is not the run's.
            logger.put_params({k: v for k, v in chosen.items() if not member or k != "seed"}, member)
        self._describe(trainer, pl_module)
        installed = sorted(f"{name}=={version}" for name, version in installed_packages().items())
        logger.put("text", text="\n".join(installed) + "\n", path="packages.txt")
        data = run_of(trainer).datamodule
        info = data.info if isinstance(data, HasDataset) else None
        if isinstance(info, DatasetInfo):
            logger.put("dataset", dataset=dataset_record(info))
            logger.put("tags", values={"dataset": info.name, "dataset/content_hash": info.content_hash})
            logger.put("text", text=info.card, path="dataset_card.md")
        measured = announced_dataset(trainer)  # the references that scores are normalised by
        if isinstance(measured, DatasetInfo):
            logger.put("tags", values={"dataset/yardstick": measured.yardstick})
        spec = announced_environment(trainer)
        if spec is not None:
            logger.put("tags", values={"environment": spec.id})
            logger.put("text", text=json.dumps(spec.to_plain(), indent=2) + "\n", path="environment.json")
        _put_files(logger, [config])
        if self.system_metrics:
            self._monitor = start_monitor(logger)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record what came out."""
        logger = _logger(trainer)
        if logger is None:
            return
        assert isinstance(pl_module, Agent)
        self._describe(trainer, pl_module)
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
            _put_files(
                logger,
                [folder / "checkpoints" / f"{name}.ckpt" for name in ("best", "last", "trusted", "cloned")],
                "checkpoints",
            )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stop_monitor()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say what ended the run; one that a signal ended is called killed."""
        self._stop_monitor()
        logger = _logger(trainer)
        if logger is None or not logger.is_open or trainer.state.fn != TrainerFn.FITTING:
            return
        signal = signal_name(trainer, exception)
        if signal is not None:
            logger.stopped()
        assert isinstance(pl_module, Agent)
        self._describe(trainer, pl_module, f"{signal or type(exception).__name__} ended the run")

    def _describe(self, trainer: Trainer, agent: Agent, ended: str | None = None) -> None:
        """Write our part of the run's description, and of the members'."""
        logger = _logger(trainer)
        assert logger is not None
        folder, parts = Path(trainer.default_root_dir), []
        if ended is not None:
            parts.append(f"**{ended} after {agent.updates:,} updates.**")
        evaluation = next((c for c in run_of(trainer).callbacks if isinstance(c, Evaluation)), None)
        if ended is None and evaluation is not None and evaluation.table is not None:
            parts += [markdown(evaluation.table), "\n".join(f"- {k}: `{v}`" for k, v in evaluation.footer.items())]
        go_on, where = how_to_go_on(folder, self.folder_is_named), where_to_go_on(folder).capitalize()
        repeat = f"reverie fit --config {shlex.quote(str(folder / 'config.yaml'))}"
        for title, line in (("Started by", self.command), ("To repeat it", repeat), (where, go_on)):
            if line is not None:
                parts.append(f"{title}, in `{Path.cwd()}`:\n```\n{without_secrets(line)[:1000]}\n```")
        for member in ("", *filter(None, agent.member_names)):
            logger.put("description", member, text="\n\n".join(parts))

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
            logger.put_file(path, folder)


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
    """A CSV file of scores in the JSON layout that MLflow's UI shows as a table.

    The page is narrow: what tells most comes first, and columns without any entry are left out.
    """
    with path.open(newline="") as file:
        columns, *rows = csv.reader(file)
    filled = [n for n in range(len(columns)) if any(row[n] for row in rows)]
    order = sorted(filled, key=lambda n: FIRST.index(columns[n]) if columns[n] in FIRST else len(FIRST))
    return json.dumps({"columns": [columns[n] for n in order], "data": [[row[n] for n in order] for row in rows]})
