"""Results that a finished run is given afterwards: metrics, tags and files, in its page of MLflow."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from callbacks.mlflow.store import (
    RUN_FILE,
    SQLITE,
    absolute,
    find_experiment,
    metric_name,
    opened_store,
)
from modules.trust.files import read_json_object
from modules.trust.names import short


class LoggedRun(NamedTuple):
    """A run in MLflow.

    Attributes:
        tracking_uri: address of the store.
        run_id: id of the run.
        children: ids of the runs of its members, by their names.
    """

    tracking_uri: str
    run_id: str
    children: Mapping[str, str]


def logged_run(folder: Path) -> LoggedRun | None:
    """The run that a run's folder names; None where it was not logged to MLflow.

    Raises:
        ValueError: the file that names it is damaged.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        return None
    saved = read_json_object(path)
    uri, run_id, children = (saved.get(name) for name in ("tracking_uri", "run_id", "children"))
    if not isinstance(uri, str) or not isinstance(run_id, str) or not isinstance(children, dict):
        raise ValueError(f"{path} names no run of MLflow; name one with --mlflow_run, or set it to none")
    return LoggedRun(uri, run_id, children)


def store_address(tracking_uri: str | None) -> str:
    """The store at this address, that of `$MLFLOW_TRACKING_URI`, or mlflow.db."""
    return absolute(tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db")


def named_run(run_id: str, tracking_uri: str | None) -> LoggedRun:
    """The run with this id, in the store of `store_address`."""
    return LoggedRun(store_address(tracking_uri), run_id, {})


def new_run(experiment: str, name: str, tracking_uri: str | None) -> LoggedRun:
    """A finished run in an experiment, which is made if there is none, for results to be added to.

    Raises:
        ValueError: the store cannot be reached or used.
    """
    uri = store_address(tracking_uri)
    with opened_store(uri) as client:
        run_id = client.create_run(find_experiment(client, experiment, uri, None), run_name=name).info.run_id
        client.set_terminated(run_id)
    return LoggedRun(uri, run_id, {})


def add_results(
    run: LoggedRun,
    folder: str,
    files: Sequence[Path],
    metrics: Mapping[str, Mapping[str, float]],
    tags: Mapping[str, str],
) -> None:
    """Add to a run, whose status stays as it is.

    Args:
        run: the run.
        folder: folder of its artifacts for the files, and the first part of the metrics' names.
        files: files.
        metrics: values by name, by member; the run of the member gets them too, where there is one.
        tags: tags of the run.

    Raises:
        ValueError: the store cannot be reached, or has no such run.
    """
    with opened_store(run.tracking_uri) as client:
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        try:
            client.get_run(run.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise ValueError(
                f"{short(run.tracking_uri, 150)} has no run {short(run.run_id)}; name another with --mlflow_run and "
                "--tracking_uri, or set --mlflow_run none"
            ) from error
        # Numbers to the run and to its members, tags and files to the run.
        now = int(time.time() * 1000)
        for member, values in metrics.items():
            for run_id, path in ((run.run_id, [folder, member]), (run.children.get(member), [folder])):
                named = {metric_name("/".join(filter(None, (*path, name)))): value for name, value in values.items()}
                if run_id is not None:
                    client.log_batch(run_id, [Metric(name, value, now, 0) for name, value in named.items()])
        for name, text in tags.items():
            client.set_tag(run.run_id, name, text)
        for file in files:
            client.log_artifact(run.run_id, str(file), folder)
