"""Where MLflow keeps runs: addresses, whether something answers there, and what it already knows of a run."""

from __future__ import annotations

import os
import re
import sqlite3
import urllib.error
import urllib.request
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from callbacks.mlflow.faults import Fault, database_fault, outage_fault, refusal, system_fault
from callbacks.mlflow.mlflow_private import make_tables
from modules.disk import to_disk

SQLITE = "sqlite:///"

RUN_FILE = "mlflow_run.json"
"""File in a run's folder that names its run in MLflow."""
PARAMETER_LENGTH = 6000
KEY_LENGTH = 250
TAG_LENGTH = 8000
ANSWER_SECONDS = 4.0
"""Waiting for a sign of life, of a server or of whoever holds a database."""
_MAKING_SECONDS = 60.0
"""Waiting for another process that makes a database, or a run in it; each takes seconds."""
_QUICK = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
"""While somebody waits for the answers of a server."""
_PATIENT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "30", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
"""While a thread waits for them: what a slow server takes must not be sent again before it says so."""


@dataclass
class Known:
    """The entries of a run that a store has, or that are on their way there.

    Attributes:
        params: values by name; a store never changes them.
        tags: texts by name.
        steps: the last step of each metric.
    """

    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)

    @staticmethod
    def of(run: Any) -> Known:
        """The entries of an MLflow run."""
        latest = {metric.key: metric.step for metric in run.data.to_proto().metrics}  # the mapping has values alone
        return Known(dict(run.data.params), dict(run.data.tags), latest)

    def add(self, record: Mapping[str, Any]) -> None:
        """A record of `callbacks.mlflow.records.send` will be sent."""
        if record["kind"] == "metrics":
            for key, _, _, step in record["values"]:
                self.steps[key] = max(step, self.steps.get(key, step))
        elif record["kind"] in ("params", "tags"):
            getattr(self, record["kind"]).update(record["values"])

    def new_points(self, values: list[tuple[str, float, int, int]]) -> list[tuple[str, float, int, int]]:
        """Those of the points (key, value, milliseconds, step) that are behind the last one of their metric."""
        return [point for point in values if point[3] > self.steps.get(point[0], -1)]

    def split(self, values: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
        """Parameters that are new, and tags `changed/NAME: first -> second` for those that have another value."""
        new, changed = {}, {}
        for name, value in values.items():
            # Slashes, which only users' own names bring, would have to be those of a plain path.
            key, text = metric_name(name).replace("/", "_")[:KEY_LENGTH], str(value)[:PARAMETER_LENGTH]
            if key not in self.params:
                new[key] = text
                continue
            tag = f"changed/{key}"[:KEY_LENGTH]
            history = self.tags.get(tag, self.params[key])
            if text != history.split(" -> ")[-1]:
                changed[tag] = f"{history} -> {text}"[-TAG_LENGTH:]
        self.params |= new
        self.tags |= changed
        return new, changed


def metric_name(key: str) -> str:
    """The key with everything that some MLflow server refuses replaced by `_`: `beta=4` becomes `beta_4`."""
    return re.sub(r"[^\w/. -]", "_", key)


def flat(params: Mapping[Any, Any] | Namespace) -> dict[str, Any]:
    """Parameters by one key each: `{"a": {"b": 1}, "c": [{"d": 2}]}` becomes `{"a/b": 1, "c/0/d": 2}`."""
    found: dict[str, Any] = {}
    for key, value in (vars(params) if isinstance(params, Namespace) else params).items():
        listed = isinstance(value, list) and all(isinstance(item, Mapping) for item in value)
        inner = dict(enumerate(value)) if listed else value
        if isinstance(inner, Mapping | Namespace):
            found |= {f"{key}/{name}": item for name, item in flat(inner).items()}
        else:
            found[str(key)] = value
    return found


def absolute(uri: str) -> str:
    """An SQLite address that does not depend on the working directory; others as they are."""
    if not uri.startswith(SQLITE):
        return uri
    return f"{SQLITE}{Path(uri.removeprefix(SQLITE)).resolve()}"


def file_identity(uri: str) -> tuple[int, int] | None:
    """Device and number of an SQLite file; None for other stores, and for a file that is gone."""
    path = Path(uri.removeprefix(SQLITE))
    if not uri.startswith(SQLITE) or not path.exists():
        return None
    found = path.stat()
    return found.st_dev, found.st_ino


def settle(uri: str) -> None:
    """Return when the disk has the last change of an SQLite file; other stores answer for themselves.

    A change is there once the name of its journal is gone, which SQLite leaves to the system.
    """
    if uri.startswith(SQLITE):
        to_disk(Path(uri.removeprefix(SQLITE)).parent)


def find_experiment(client: Any, name: str, uri: str, location: str | None) -> str:
    """Id of the experiment of that name, which is created if there is none.

    Args:
        client: `MlflowClient` of the store.
        name: name of the experiment.
        uri: address of the store.
        location: where a new experiment keeps files; default `mlartifacts` beside an SQLite file, and the server's
            choice otherwise.

    Raises:
        ValueError: it was deleted.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        if location is None and uri.startswith(SQLITE):
            location = (Path(uri.removeprefix(SQLITE)).parent / "mlartifacts").as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # another process was first
    assert found is not None
    if found.lifecycle_stage == "deleted":
        raise ValueError(
            f"experiment {name!r} was deleted in {uri}: restore it with `mlflow "
            f"experiments restore --experiment-id {found.experiment_id}`, or give another experiment_name"
        )
    return str(found.experiment_id)


def check_reachable(uri: str) -> None:
    """Find out within seconds whether a tracking store answers.

    Raises:
        ValueError: nothing answers at the address, or the file is no SQLite database that can be written now.
    """
    if uri.startswith(SQLITE):
        path, header = Path(uri.removeprefix(SQLITE)), b""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                with path.open("r+b") as file:
                    header = file.read(16)
            elif (refused := refusal(path)) is not None:
                raise OSError(refused, os.strerror(refused))
        except OSError as error:
            raise _unusable(system_fault(path, error)) from error
        if header and header != b"SQLite format 3\x00":
            raise ValueError(f"{path} is no SQLite database: give another tracking_uri, or move the file away")
        if header:
            _check_unlocked(path)
    elif uri.startswith(("http://", "https://")):
        try:
            urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=ANSWER_SECONDS).close()
        except urllib.error.HTTPError:
            return  # something answers; a server behind a proxy need not have a health page
        except OSError as error:
            raise ValueError(
                f"no MLflow tracking server answers at {uri} ({error}): start one, correct tracking_uri, or leave it "
                "out to log to a local file"
            ) from error


def _check_unlocked(path: Path) -> None:
    """Raise a ValueError where another program does not let go of an SQLite file, or it cannot be written."""
    try:
        with closing(sqlite3.connect(path, timeout=ANSWER_SECONDS)) as database:
            database.execute("begin immediate")
            database.rollback()
    except sqlite3.Error as error:
        raise _unusable(database_fault(path, error)) from error


def _unusable(fault: Fault) -> ValueError:
    """That MLflow cannot use an SQLite file, why, and what to do before a run."""
    return ValueError(f"{fault.what}: {fault.fix}, or give another tracking_uri")


def store_fault(uri: str, error: BaseException) -> Fault | None:
    """The fault of a disk of this machine for which the store at an address has failed, see `outage_fault`; or None."""
    return outage_fault(Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None, error)


@contextmanager
def opened_store(uri: str) -> Iterator[Any]:
    """MLflow's client of a store that answers within seconds; what is done within is told as by `whole_store`.

    Raises:
        ValueError: it cannot be reached or used.
    """
    check_reachable(uri)
    with _quick_answers(), whole_store(uri):
        from mlflow import MlflowClient

        yield MlflowClient(uri)


@contextmanager
def _quick_answers() -> Iterator[None]:
    """Within, a server that stops to answer is given up at once; what the user has set always holds.

    MLflow would ask it for four minutes. It reads these variables at each call, and takes no argument.
    """
    ours = [name for name, value in _PATIENT.items() if os.environ.get(name, value) == value]
    os.environ.update({name: _QUICK[name] for name in ours})
    try:
        yield
    finally:
        os.environ.update({name: _PATIENT[name] for name in ours})


def open_store(uri: str) -> Any:
    """MLflow's client of a store that answers and holds what MLflow can read.

    Raises:
        ValueError: it cannot be reached or used.
    """
    with opened_store(uri) as client:
        client.search_experiments(max_results=1)
        return client


@contextmanager
def whole_store(uri: str) -> Iterator[None]:
    """Within, a store can be opened: an SQLite file has all its tables or is an old one, and nobody else makes it.

    Raises:
        ValueError: the store cannot be used, as when a process was ended while it made or changed the file.
    """
    path = Path(uri.removeprefix(SQLITE))
    try:
        if not uri.startswith(SQLITE):
            yield
            return
        # Two processes that create the tables of one new file at once break each other.
        with FileLock(f"{path}.lock", timeout=_MAKING_SECONDS):
            if not path.exists() or not path.stat().st_size:
                _make_database(path)
            yield
    except Timeout as error:
        raise ValueError(
            f"another process holds {path}.lock for more than a minute, to make {path} or a run in it: end that process"
        ) from error
    except Exception as error:
        if not isinstance(error, _errors_of_stores()):
            raise
        if uri.startswith(SQLITE) and _of_database(error):
            raise _unusable(database_fault(path, error)) from error
        reason = " ".join(str(getattr(error, "orig", error)).split())[:150]
        raise ValueError(f"MLflow tracking store {uri} cannot be used: {reason}") from error


def _of_database(error: BaseException) -> bool:
    """Whether a database failed, and not what MLflow was asked for: MLflow's errors name what they come from."""
    from mlflow.exceptions import MlflowException

    while isinstance(error, MlflowException) and error.__cause__ is not None:
        error = error.__cause__
    return not isinstance(error, MlflowException)


def _make_database(path: Path) -> None:
    """A new file with all tables, made aside and renamed: MLflow cannot use, nor mend, one that was left half-made."""
    aside = path.with_name(f".{path.name}.new")
    # SQLite would take the journal that a removed file has left for that of the new one.
    for left in (aside, *(Path(f"{file}{kind}") for file in (aside, path) for kind in ("-journal", "-wal", "-shm"))):
        left.unlink(missing_ok=True)
    try:
        make_tables(f"{SQLITE}{aside}")
        os.replace(aside, path)
        to_disk(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def _errors_of_stores() -> tuple[type[Exception], ...]:
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, CommandError
