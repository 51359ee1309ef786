"""The page of a sweep in MLflow: a run of its own, a child for each trial, and the runs of a trial below that."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from callbacks.files.written_aside import written_aside
from callbacks.mlflow.run_file import START_FILE, created_run, saved_run
from callbacks.mlflow.store import PARAMETER_LENGTH, RUN_FILE, absolute, find_experiment, metric_name, opened_store

PARENT = "mlflow.parentRunId"

Result = TypeVar("Result")


class SweepPage:
    """Keeps what the trials of a sweep have tried and reached; any number of workers write to it.

    A trial's run has the values of its keys as parameters and `sweep/score`, `sweep/seconds` as metrics; that of the
    sweep has `sweep/score` and `sweep/best` at the numbers of the trials, and the files of the results. A store that
    cannot be reached is a warning, and the sweep goes on without it.

    Args:
        root: folder of the sweep, which names its run; those of trials have folders below it.
        experiment: name of the experiment, which is made if there is none.
        tracking_uri: address of the store.
        artifact_location: where a new experiment keeps files; None for the store's choice.
    """

    def __init__(self, root: Path, experiment: str, tracking_uri: str, artifact_location: str | None = None) -> None:
        self.root = root
        self.experiment = experiment
        self.tracking_uri = absolute(tracking_uri)
        self.artifact_location = artifact_location
        self.reachable = True

    def open(self) -> str | None:
        """Id of the sweep's run, which is made or goes on; no two workers may ask at once."""
        return self._try(lambda client: self._run(client, self.root, self.root.name, {}))

    def begin(self, folder: Path, values: Mapping[str, Any], parent: str | None) -> dict[str, str]:
        """Make a trial's run, or let it go on.

        Args:
            folder: folder of the trial.
            values: what it tries, by key.
            parent: id of the sweep's run.

        Returns:
            Tags of the trial's own runs, which are below it then.
        """

        def make(client: Any) -> str:
            run_id = self._run(client, folder, folder.name, {} if parent is None else {PARENT: parent})
            known = client.get_run(run_id).data.params
            for key, value in values.items():
                if metric_name(key) not in known:
                    client.log_param(run_id, metric_name(key), str(value)[:PARAMETER_LENGTH])
            return run_id

        run_id = self._try(make)
        return {} if run_id is None else {PARENT: run_id}

    def end(
        self, tags: Mapping[str, str], parent: str | None, number: int, status: str, metrics: Mapping[str, float],
        told: Mapping[str, str], best: float | None,
    ) -> None:  # fmt: skip
        """End a trial's run.

        Args:
            tags: what `begin` has returned.
            parent: id of the sweep's run.
            number: number of the trial.
            status: `FINISHED`, `KILLED` where it was pruned, or `FAILED`.
            metrics: what it has reached, by name.
            told: further tags.
            best: value of the best trial so far.
        """

        def finish(client: Any) -> None:
            for name, value in metrics.items():
                client.log_metric(tags[PARENT], f"sweep/{name}", value)
            for name, text in told.items():
                client.set_tag(tags[PARENT], f"sweep/{name}", text)
            client.set_terminated(tags[PARENT], status)
            now = int(time.time() * 1000)
            for name, reached in (("score", metrics.get("score")), ("best", best)):
                if parent is not None and reached is not None:
                    client.log_metric(parent, f"sweep/{name}", reached, now, number)

        if PARENT in tags:
            self._try(finish)

    def close(self, parent: str | None, files: Sequence[Path], text: str) -> None:
        """Keep the files of the results and a description, and end the sweep's run."""

        def finish(client: Any) -> None:
            for path in files:
                client.log_artifact(parent, str(path))
            client.set_tag(parent, "mlflow.note.content", text)
            client.set_terminated(parent)

        if parent is not None:
            self._try(finish)

    def _try(self, what: Callable[[Any], Result]) -> Result | None:
        """The result of a call of the store; None, and a warning the first time, where it cannot be reached."""
        if not self.reachable:
            return None
        try:
            with opened_store(self.tracking_uri) as client:
                return what(client)
        except ValueError as error:
            self.reachable = False
            warnings.warn(f"the sweep goes on without its page: {error}", stacklevel=2)
            return None

    def _run(self, client: Any, folder: Path, name: str, tags: Mapping[str, str]) -> str:
        """Id of the run that a folder names, which runs again, or of a new one."""
        saved = saved_run(folder / RUN_FILE)
        if saved is not None and saved["tracking_uri"] == self.tracking_uri:
            client.update_run(saved["run_id"], status="RUNNING")
            return str(saved["run_id"])
        experiment = find_experiment(client, self.experiment, self.tracking_uri, self.artifact_location)
        run_id = created_run(client, experiment, folder, tags, name)
        content = {"run_id": run_id, "experiment_id": experiment, "tracking_uri": self.tracking_uri, "children": {}}
        with written_aside(folder / RUN_FILE) as aside:
            aside.write_text(json.dumps(content, indent=2) + "\n")
        (folder / START_FILE).unlink(missing_ok=True)
        return run_id
