"""MLflowLogger: Lightning's logger for MLflow, local by default, resumable, and never in the way of training."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import time
import urllib.error
import urllib.request
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from lightning_fabric.utilities.logger import _convert_params, _flatten_dict
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import MLFlowLogger
from pytorch_lightning.loggers.logger import Logger, rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_only, rank_zero_warn

from callbacks.mlflow_pages import run_page
from callbacks.mlflow_writer import BackgroundWriter

SQLITE = "sqlite:///"
_STATUS = {"success": "FINISHED", "finished": "FINISHED", "failed": "FAILED"}
_ANSWER_SECONDS = 4.0
_FLUSH_SECONDS = 60.0


class MLflowLogger(MLFlowLogger):
    """Metrics, parameters and files of one run, sent by a background thread.

    The run is created at the first use, which fails within seconds when the server cannot be reached. Later failures
    never stop training: see `BackgroundWriter`. A run directory that already holds an `mlflow_run.json` continues the
    run named there. With `register_members`, each member of a population has a child run of its own.

    Args:
        experiment_name: of the MLflow experiment, created when it does not exist.
        tracking_uri: `sqlite:///file`, `http://host:port`, or any that MLflow knows; default `sqlite:///mlflow.db` in
            the working directory.
        artifact_location: where a new experiment keeps files; default `mlartifacts` beside an SQLite file, and the
            server's choice otherwise.
        run_name: shown in the UI; default the name of the run directory.
        run_directory: where `mlflow_run.json` and the spool are; default `$REVERIE_RUN_DIR`, or the working directory.
        tags: of the run.

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
        self._tracking_uri = _absolute(tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db")
        self._artifact_location = artifact_location
        self._directory = Path(run_directory or os.environ.get("REVERIE_RUN_DIR") or ".").resolve()
        self._run_name = run_name or self._directory.name
        self.tags = tags or {}
        self._experiment_id: str | None = None
        self._run_id: str | None = None
        self._initialized = False
        self._children: dict[str, str] = {}
        self._logged_params: dict[str, str] = {}
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

    def _open(self) -> None:
        # A dead server would otherwise be asked for four minutes; both are read at each call.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        for noisy in ("urllib3.connectionpool", "mlflow.store", "alembic"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        check_reachable(self._tracking_uri)
        from mlflow.exceptions import MlflowException

        try:
            if self._tracking_uri.startswith(SQLITE):
                # Two processes that create the tables of one new file at once break each other.
                with FileLock(f"{self._tracking_uri.removeprefix(SQLITE)}.lock"):
                    self._connect()
            else:
                self._connect()
        except MlflowException as error:
            raise ValueError(f"MLflow tracking store {self._tracking_uri} cannot be used: {error}") from error
        self._directory.mkdir(parents=True, exist_ok=True)
        self._write_run_file()
        self._writer = BackgroundWriter(self._mlflow_client, self._directory / "mlflow-spool.jsonl")
        self._initialized = True

    def _connect(self) -> None:
        from mlflow import MlflowClient

        self._mlflow_client = MlflowClient(self._tracking_uri)
        run = self._previous_run()
        if run is None:
            self._experiment_id = self._find_experiment()
            run = self._mlflow_client.create_run(self._experiment_id, tags=self.tags, run_name=self._run_name)
        else:
            self._experiment_id = run.info.experiment_id
            for run_id in (run.info.run_id, *self._children.values()):
                self._mlflow_client.update_run(run_id, status="RUNNING")
        self._run_id = run.info.run_id
        self._logged_params = dict(run.data.params)

    def _previous_run(self) -> Any | None:
        """The run that this directory's `mlflow_run.json` names, or None when a new one is to be made."""
        from mlflow.exceptions import MlflowException

        path = self._directory / "mlflow_run.json"
        if not path.is_file():
            return None
        saved = json.loads(path.read_text())
        if saved["tracking_uri"] != self._tracking_uri:
            rank_zero_warn(f"the run was logged to {saved['tracking_uri']}; it starts anew in {self._tracking_uri}")
            return None
        try:
            run = self._mlflow_client.get_run(saved["run_id"])
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            rank_zero_warn(f"MLflow run {saved['run_id']} is gone from {self._tracking_uri}; a new one is started")
            return None
        self._children = saved["children"]
        return run

    def _find_experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self._mlflow_client.get_experiment_by_name(self._experiment_name)
        if found is None:
            location = self._artifact_location
            if location is None and self._tracking_uri.startswith(SQLITE):
                location = (Path(self._tracking_uri.removeprefix(SQLITE)).parent / "mlartifacts").as_uri()
            try:
                return str(self._mlflow_client.create_experiment(self._experiment_name, artifact_location=location))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self._mlflow_client.get_experiment_by_name(self._experiment_name)  # another process was first
        assert found is not None
        if found.lifecycle_stage == "deleted":
            raise ValueError(
                f"experiment {self._experiment_name!r} was deleted in {self._tracking_uri}: restore it with `mlflow "
                f"experiments restore --experiment-id {found.experiment_id}`, or give another experiment_name"
            )
        return str(found.experiment_id)

    @rank_zero_only
    def register_members(self, names: Sequence[str]) -> None:
        """Create a child run for each named member that has none yet; its metrics are logged there too."""
        client, parent = self.experiment, self.run_id
        for name in filter(None, names):
            if name not in self._children:
                tags = {"mlflow.parentRunId": str(parent), "member": name}
                child = client.create_run(str(self._experiment_id), tags=tags, run_name=name)
                self._children[name] = child.info.run_id
                values = dict(part.split("=", 1) for part in name.split("/") if "=" in part)
                self.put("params", child.info.run_id, values=values)
        self._write_run_file()

    def _write_run_file(self) -> None:
        path = self._directory / "mlflow_run.json"
        content = {
            "run_id": self._run_id,
            "experiment_id": self._experiment_id,
            "tracking_uri": self._tracking_uri,
            "children": self._children,
        }
        aside = path.with_name(f".{path.name}.tmp")
        aside.write_text(json.dumps(content, indent=2) + "\n")
        os.replace(aside, path)

    # ------------------------------------------------------------------------------------------------------- records
    def put(self, kind: str, run_id: str | None = None, **fields: Any) -> None:
        """Queue a record of `callbacks.mlflow_writer.send` for this run, or for the run of a member."""
        target = run_id or self.run_id
        assert self._writer is not None
        self._writer.put({"kind": kind, "run_id": target, **fields})

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Queue named values at a step; `group/member/name` goes to the run of that member as `group/name`."""
        now, own = int(time.time() * 1000), []
        members: dict[str, list[tuple[str, float, int, int]]] = {}
        for key, value in metrics.items():
            number = float(value)
            own.append((metric_name(key), number, now, step or 0))
            group, _, rest = key.partition("/")
            for member, run_id in self._children.items():
                if rest.startswith(f"{member}/"):
                    name = metric_name(f"{group}/{rest.removeprefix(f'{member}/')}")
                    members.setdefault(run_id, []).append((name, number, now, step or 0))
        self.put("metrics", values=own)
        for run_id, values in members.items():
            self.put("metrics", run_id, values=values)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Queue parameters; those that a continued run already has stay as they were first logged."""
        flat = _flatten_dict(_convert_params(params))
        values = {k: str(v)[:6000] for k, v in flat.items() if not k.startswith("_")}
        _ = self.experiment
        changed = [k for k, v in values.items() if self._logged_params.get(k, v) != v]
        if changed:
            rank_zero_warn(f"the continued MLflow run keeps the first values of changed settings: {', '.join(changed)}")
        new = {k: v for k, v in values.items() if k not in self._logged_params}
        self._logged_params |= new
        if new:
            self.put("params", values=new)

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Checkpoints are uploaded once, at the end of training, by the MLflowRun callback."""

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """Set the run's status and wait, for a limited time, until everything is sent or spooled."""
        if not self._initialized:
            return
        assert self._writer is not None
        for run_id in (*self._children.values(), self._run_id):
            self.put("status", run_id, status=_STATUS[status])
        self._writer.flush(_FLUSH_SECONDS)

    def how_to_open(self) -> str:
        """What a person types or opens to see this run."""
        if self._tracking_uri.startswith("http"):
            return f"{self._tracking_uri.rstrip('/')}/{run_page(str(self.experiment_id), str(self.run_id))}"
        return f"reverie ui --folder {shlex.quote(str(self._directory))}"


def metric_name(key: str) -> str:
    """The key with everything that some MLflow server refuses replaced by `_`: `beta=4` becomes `beta_4`."""
    return re.sub(r"[^\w/. -]", "_", key)


def _absolute(uri: str) -> str:
    """An SQLite address that does not depend on the working directory; others as they are."""
    if not uri.startswith(SQLITE):
        return uri
    return f"{SQLITE}{Path(uri.removeprefix(SQLITE)).resolve()}"


def check_reachable(uri: str) -> None:
    """Find out within seconds whether a tracking store answers.

    Raises:
        ValueError: nothing answers at the address, or the file is no SQLite database that can be written.
    """
    if uri.startswith(SQLITE):
        path = Path(uri.removeprefix(SQLITE))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a+b") as file:
                file.seek(0)
                header = file.read(16)
        except OSError as error:
            raise ValueError(f"MLflow database {path} cannot be written: {error.strerror}") from error
        if header and header != b"SQLite format 3\x00":
            raise ValueError(f"{path} is no SQLite database: give another tracking_uri, or move the file away")
    elif uri.startswith(("http://", "https://")):
        try:
            urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=_ANSWER_SECONDS).close()
        except urllib.error.HTTPError:
            return  # something answers; a server behind a proxy need not have a health page
        except OSError as error:
            raise ValueError(
                f"no MLflow tracking server answers at {uri} ({error}): start one, correct tracking_uri, or leave it "
                "out to log to a local file"
            ) from error
