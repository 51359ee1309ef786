"""MLflowLogger: Lightning's logger for MLflow, local by default, resumable, and never in the way of training."""

from __future__ import annotations

import functools
import json
import logging
import os
import shlex
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import MLFlowLogger
from pytorch_lightning.loggers.logger import Logger, rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_only, rank_zero_warn

from callbacks.files.written_aside import written_aside
from callbacks.mlflow.faults import RemovedError
from callbacks.mlflow.mlflow_private import remove_half_copies
from callbacks.mlflow.pages import run_page
from callbacks.mlflow.run_file import START_FILE, children_of, created_run, saved_run
from callbacks.mlflow.store import (
    RUN_FILE,
    SQLITE,
    Known,
    absolute,
    check_reachable,
    file_identity,
    find_experiment,
    flat,
    metric_name,
    opened_store,
    settle,
    store_fault,
)
from callbacks.mlflow.writer import BackgroundWriter, waiting_records
from modules.disk import make_folder
from modules.trust.names import short

_STATUS = {"success": "FINISHED", "finished": "FINISHED", "failed": "FAILED"}
_FLUSH_SECONDS = 60.0
STOP_SECONDS = 10.0
"""Waiting for the server when a signal ended the run: what sends signals often kills half a minute later."""


class MLflowLogger(MLFlowLogger):
    """Metrics, parameters and files of one run, sent by a background thread.

    The run is created at the first use, which fails within seconds when the server cannot be reached. Later failures
    never stop training: see `BackgroundWriter`. A run directory that already holds an `mlflow_run.json` continues the
    run named there. With `register_members`, each member of a population has a child run of its own.

    Args:
        experiment_name: name of the MLflow experiment, created when it does not exist.
        tracking_uri: `sqlite:///file`, `http://host:port`, or any that MLflow knows; default `sqlite:///mlflow.db` in
            the working directory.
        artifact_location: where a new experiment keeps files; default `mlartifacts` beside an SQLite file, and the
            server's choice otherwise.
        run_name: shown in the UI; default the name of the run directory.
        run_directory: where `mlflow_run.json` and the spool are; default `$REVERIE_RUN_DIR`, or the working directory.
        tags: tags of the run.

    Raises:
        ValueError: at the first use, the store cannot be reached or read.
    """

    def __init__(
        self,
        experiment_name: str = "reverie",
        tracking_uri: str | None = None,
        artifact_location: str | None = None,
        run_name: str | None = None,
        run_directory: str | None = None,
        tags: dict[str, str] | None = None,
    ) -> None:
        # Not the parent's constructor: it imports MLflow and opens the database, in every process.
        Logger.__init__(self)
        self._experiment_name = experiment_name
        self._tracking_uri = absolute(tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db")
        self._artifact_location = artifact_location
        self._directory = Path(run_directory or os.environ.get("REVERIE_RUN_DIR") or ".").resolve()
        self._is_unnamed = run_name is None
        self._run_name = run_name or self._directory.name
        self.tags: dict[str, str] = tags or {}
        self._experiment_id: str | None = None
        self._run_id: str | None = None
        self._initialized = False
        self._children: dict[str, str] = {}
        self._renamed: dict[str, str] = {}
        self._known: dict[str, Known] = {}
        self._database: tuple[int, int] | None = None
        self._stopped = False
        self._writer: BackgroundWriter | None = None

    # ------------------------------------------------------------------------------------------------------- the run
    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The `MlflowClient`, with the run created or continued; for reading, as its calls wait for the server.

        Types of MLflow are not annotated: the argument parser would import them, for a second, at every start.
        """
        if not self._initialized:
            self._open()
        return self._mlflow_client

    @property
    def save_dir(self) -> str:
        """The run directory."""
        return str(self._directory)

    @property
    def tracking_uri(self) -> str:
        """Address of the store, absolute for a local file."""
        return self._tracking_uri

    @property
    def run_id(self) -> str | None:
        """Id of the run, which is created or continued if it is not open yet."""
        _ = self.experiment
        return self._run_id

    @property
    def experiment_id(self) -> str | None:
        """Id of the experiment, see `run_id`."""
        _ = self.experiment
        return self._experiment_id

    @property
    def name(self) -> str | None:
        """The experiment's id, as Lightning's logger has it."""
        return self.experiment_id

    @property
    def is_open(self) -> bool:
        """Whether the run was created or continued."""
        return self._initialized

    @rank_zero_only
    def name_run(self, name: str) -> None:
        """The name of the run if it is new and nobody named it."""
        if self._is_unnamed:
            self._run_name = name

    def _open(self) -> None:
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        for noisy in ("urllib3.connectionpool", "mlflow.store", "alembic"):
            logging.getLogger(noisy).setLevel(logging.CRITICAL)  # a failing database is a line of ours, not tracebacks
        with opened_store(self._tracking_uri) as client:
            self._connect(client)
        make_folder(self._directory)
        self._write_run_file()
        (self._directory / START_FILE).unlink(missing_ok=True)
        for record in waiting_records(self._directory):
            run_id = str(self._renamed.get(record["run_id"], record["run_id"]))
            self._known.setdefault(run_id, Known()).add(record)
        self._writer = BackgroundWriter(
            self._mlflow_client,
            self._directory,
            renamed=self._renamed,
            check=self._check_database,
            settle=functools.partial(settle, self._tracking_uri),
            probe=functools.partial(check_reachable, self._tracking_uri),
            fault=functools.partial(store_fault, self._tracking_uri),
        )
        self._initialized = True

    def _connect(self, client: Any) -> None:
        self._mlflow_client = client
        saved = saved_run(self._directory / RUN_FILE)
        run = None if saved is None else self._previous_run(saved)
        if run is None:
            self._experiment_id = find_experiment(
                client, self._experiment_name, self._tracking_uri, self._artifact_location
            )
            self._run_id = created_run(client, self._experiment_id, self._directory, self.tags, self._run_name)
            if saved is not None:  # what waits for the old run goes to the new one
                self._replace(saved)
        else:
            assert saved is not None
            self._experiment_id = run.info.experiment_id
            self._run_id = run.info.run_id
            self._children = saved["children"]
            self._renamed = saved.get("renamed", {})
            for run_id in (self._run_id, *self._children.values()):
                client.update_run(run_id, status="RUNNING")
                found = client.get_run(run_id)
                self._known[run_id] = Known.of(found)
                remove_half_copies(found.info.artifact_uri)
        self._database = file_identity(self._tracking_uri)

    def _previous_run(self, saved: Mapping[str, Any]) -> Any | None:
        """The run that this directory's `mlflow_run.json` names, or None when a new one is to be made."""
        from mlflow.exceptions import MlflowException

        if saved["tracking_uri"] != self._tracking_uri:
            rank_zero_warn(
                f"the run was logged to {short(saved['tracking_uri'], 200)}; it starts anew in {self._tracking_uri}"
            )
            return None
        try:
            run = self._mlflow_client.get_run(saved["run_id"])
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            run = None
        if run is None or run.info.lifecycle_stage != "active":
            rank_zero_warn(
                f"MLflow run {short(saved['run_id'])} is gone from {self._tracking_uri}; a new one is started"
            )
            return None
        return run

    def _replace(self, saved: Mapping[str, Any]) -> None:
        """Let this run and new children take the place of those that `mlflow_run.json` names."""
        new = {saved["run_id"]: str(self._run_id)}
        for name, old in saved["children"].items():
            new[old] = self._children[name] = self._create_child(name)
        self._renamed = {old: new.get(to, to) for old, to in saved.get("renamed", {}).items()} | new

    def _check_database(self) -> None:
        """Raise when an SQLite file was removed: it would take records through the open connection, and lose them."""
        if file_identity(self._tracking_uri) != self._database:
            raise RemovedError

    @rank_zero_only
    def register_members(self, names: Sequence[str]) -> None:
        """Create a child run for each named member that has none yet; its metrics are logged there too."""
        _ = self.experiment
        if not set(names) <= {"", *self._children}:  # an earlier process may have made them, and not written them down
            made = children_of(self._mlflow_client, str(self._experiment_id), str(self._run_id))
            self._children = made | self._children
        for name in filter(None, names):
            if name not in self._children:
                self._children[name] = self._create_child(name)
            self.put_params(dict(part.split("=", 1) for part in name.split("/") if "=" in part), name)
        self._write_run_file()

    def _create_child(self, name: str) -> str:
        tags = {**self.tags, "mlflow.parentRunId": str(self._run_id), "member": name}
        child = self._mlflow_client.create_run(str(self._experiment_id), tags=tags, run_name=name)
        return str(child.info.run_id)

    def _write_run_file(self) -> None:
        path = self._directory / RUN_FILE
        content = {
            "run_id": self._run_id,
            "experiment_id": self._experiment_id,
            "tracking_uri": self._tracking_uri,
            "children": self._children,
            "renamed": self._renamed,
        }
        with written_aside(path) as aside:
            aside.write_text(json.dumps(content, indent=2) + "\n")

    # ------------------------------------------------------------------------------------------------------- records
    def put(self, kind: str, member: str = "", **fields: Any) -> None:
        """Hand over a record of `callbacks.mlflow.records.send` for this run, or for the run of a member."""
        target = self._children[member] if member else self.run_id
        assert self._writer is not None
        self._writer.put({"kind": kind, "run_id": target, **fields})

    def put_file(self, source: Path, folder: str | None = None) -> None:
        """Keep a file among the run's artifacts, in a folder of theirs or beside all others."""
        self.put("file", source=str(source), folder=folder)

    def put_params(self, values: Mapping[str, Any], member: str = "") -> None:
        """Parameters of this run, or of a member's.

        MLflow never changes a parameter: one that a continued run has with another value stays, and a tag
        `changed/NAME` tells the values.
        """
        target = self._children[member] if member else self.run_id
        new, changed = self._known.setdefault(str(target), Known()).split(values)
        for kind, found in (("params", new), ("tags", changed)):
            if found:
                self.put(kind, member, values=found)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Hand over named values at a step; `group/member/name` goes to the run of that member as `group/name`.

        Points up to the last step that a continued run has already, of the same metric, are left out: they were logged
        between the checkpoint and the end of the earlier process.
        """
        now = int(time.time() * 1000)
        points: dict[str, list[tuple[str, float, int, int]]] = {"": []}
        for key, value in metrics.items():
            points[""].append((metric_name(key), float(value), now, step or 0))
            group, _, rest = key.partition("/")
            for member in self._children:
                if rest.startswith(f"{member}/"):
                    name = metric_name(f"{group}/{rest.removeprefix(f'{member}/')}")
                    points.setdefault(member, []).append((name, float(value), now, step or 0))
        _ = self.experiment
        for member, values in points.items():
            known = self._known.get(str(self._children[member] if member else self.run_id), Known())
            if fresh := known.new_points(values):
                self.put("metrics", member, values=fresh)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Hand over an agent's arguments as parameters, see `put_params`."""
        _ = self.experiment
        self.put_params({k: v for k, v in flat(params).items() if not k.startswith("_")})

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Checkpoints are uploaded once, at the end of training, by the MLflowRun callback."""

    @rank_zero_only
    def secure(self) -> None:
        """Return when the disk has all that was logged and is not sent yet; for use before a checkpoint is written."""
        if self._writer is not None:
            self._writer.secure()

    def stopped(self) -> None:
        """A signal ends the run, which `finalize` then calls killed, whatever its status."""
        self._stopped = True

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """Set the run's status and wait, for a limited time, until everything is sent; the rest stays on disk."""
        if not self._initialized:
            return
        assert self._writer is not None
        for member in (*self._children, ""):
            self.put("status", member, status="KILLED" if self._stopped else _STATUS[status])
        self._writer.flush(STOP_SECONDS if self._stopped else _FLUSH_SECONDS)

    def how_to_open(self) -> str:
        """The command or address by which a person sees this run."""
        if self._tracking_uri.startswith("http"):
            return f"{self._tracking_uri.rstrip('/')}/{run_page(str(self.experiment_id), str(self.run_id))}"
        return f"reverie ui --folder {shlex.quote(str(self._directory))}"
