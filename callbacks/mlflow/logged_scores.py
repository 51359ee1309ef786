"""Scores of runs that MLflow keeps, as a comparison takes them."""

from __future__ import annotations

import difflib
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from callbacks.evaluation.compared import ComparedRun, Task
from callbacks.evaluation.report import Score
from datamodules.envs.from_file import read_plain
from datamodules.recorded.dataset_info import NO_REFERENCES
from modules.trust.files import read_json_object
from modules.trust.names import short

KINDS = {"evaluation": "curve", "last": "last", "best": "best"}
"""Kinds of scores by the group of their metrics."""

RUNS = 10_000
"""Most runs of an experiment that are read."""


def read_logged(client: Any, word: str) -> list[ComparedRun]:
    """All runs of an experiment that were scored, or one run, members of populations apart.

    Args:
        client: MLflow's client, see `callbacks.mlflow.store.open_store`.
        word: name of an experiment, or id of a run.

    Raises:
        ValueError: there is no such experiment or run, or nothing in it was scored.
    """
    # All runs that may belong to it, those of members among them.
    experiment = client.get_experiment_by_name(word)
    if experiment is not None:
        found = {run.info.run_id: run for run in client.search_runs([experiment.experiment_id], max_results=RUNS)}
        wanted = list(found)
    else:
        asked = _run_of(client, word)
        near = client.search_runs(
            [asked.info.experiment_id], f"tags.`mlflow.parentRunId` = '{asked.info.run_id}'", max_results=RUNS
        )
        found = {run.info.run_id: run for run in (asked, *near)}
        # The page of a population of `reverie evolve` trains nothing itself.
        wanted = [asked.info.run_id] if "model.class_path" in asked.data.params else list(found)
    # Runs below another one are its members if that one trained them, else runs of their own, as in `reverie evolve`.
    members: dict[str, list[Any]] = {}
    for run in found.values():
        parent = found.get(run.data.tags.get("mlflow.parentRunId", ""))
        if parent is not None and "model.class_path" in parent.data.params:
            members.setdefault(parent.info.run_id, []).append(run)
    below = {run.info.run_id for some in members.values() for run in some}
    runs = [found[id] for id in wanted if "model.class_path" in found[id].data.params and not below & {id}]
    compared = [one for run in runs for one in _compared(client, run, members.get(run.info.run_id, []))]
    scored = [run for run in compared if run.scores]
    if not scored:
        raise ValueError(f"no run of {short(word)} in MLflow has returns: they are there after its first evaluation")
    return scored


def seconds_of(client: Any, run_id: str) -> list[tuple[int, float]]:
    """Pairs of updates and the seconds of training until then, by what `callbacks.wall_time.WallTime` has logged.

    The time between two processes of a run that was continued does not count. Nothing where the store lacks the run.
    """
    try:
        metrics = client.get_run(run_id).data.metrics
    except _refusals():
        return []
    per_update: dict[int, float] = {}
    for key in metrics:
        if key.startswith("time/"):
            for point in client.get_metric_history(run_id, key):
                per_update[point.step] = per_update.get(point.step, 0.0) + point.value / 1e3
    pairs, before, passed = list[tuple[int, float]](), 0, 0.0
    for step in sorted(per_update):
        passed += per_update[step] * (step - before)
        before = step
        pairs.append((step, passed))
    return pairs


def _run_of(client: Any, word: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        if re.fullmatch(r"[0-9a-f]{32}", word):
            return client.get_run(word)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    names = [experiment.name for experiment in client.search_experiments()]
    close = difflib.get_close_matches(word, names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"experiments: {', '.join(names[:10]) or 'none'}"
    raise ValueError(f"{short(word)} is no folder, and no experiment or run id in this MLflow store; {hint}")


def _compared(client: Any, run: Any, members: Sequence[Any]) -> list[ComparedRun]:
    """A run, or its members; returns of a run that has members are means over them."""
    tags = run.data.tags
    settings = _settings(run)
    place = f"{tags.get('mlflow.runName', 'run')} ({run.info.run_id[:8]})"
    task = Task.of(_environment(client, run), tags.get("dataset"), tags.get("dataset/content_hash"), place)
    one = ComparedRun(
        place=place,
        settings=settings,
        member="",
        task=task,
        yardstick=tags.get("dataset/yardstick", NO_REFERENCES),
        scores=_scores(client, run, ""),
        seconds=seconds_of(client, run.info.run_id),
        started=str(run.info.start_time),
    )
    if not members:
        return [one]
    named = [(member, member.data.tags.get("member", "member")) for member in members]
    steps = {score.updates: score.environment_steps for score in one.scores}
    found = []
    for member, name in sorted(named, key=lambda pair: pair[1]):
        scores = [replace(s, environment_steps=steps.get(s.updates, 0)) for s in _scores(client, member, name)]
        found.append(replace(one, member=name, scores=scores))
    return found


def _settings(run: Any) -> dict[str, str]:
    """Parameters that are settings, with the value that a continued run gave them last."""
    settings = dict(run.data.params)
    for name, value in run.data.tags.items():
        if name.startswith("changed/") and name.removeprefix("changed/") in settings:
            settings[name.removeprefix("changed/")] = value.rpartition(" -> ")[2]
    return settings


def _environment(client: Any, run: Any) -> Mapping[str, Any] | None:
    """The whole description of the environment, else its id alone, else None."""
    id = run.data.tags.get("environment")
    if id is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = client.download_artifacts(run.info.run_id, "environment.json", folder)
        except (OSError, _refusals()):
            return {"id": id, "arguments": {}, "wrappers": []}
        return read_plain(read_json_object(Path(path)), f"run {run.info.run_id}")


def _refusals() -> type[Exception]:
    from mlflow.exceptions import MlflowException

    return MlflowException


def _scores(client: Any, run: Any, member: str) -> list[Score]:
    """Scores of regular evaluations, of the last policy and of the best checkpoint, in the order of training."""
    scores = []
    steps = _history(client, run, "collection/environment_steps")
    for group, kind in KINDS.items():
        means = _history(client, run, f"{group}/return")
        low, high = (_history(client, run, f"{group}/return/{end}") for end in ("low", "high"))
        normalised = _history(client, run, f"{group}/normalized_return")
        for updates, mean in means.items():
            collected = [at for at in steps if at <= updates]
            scores.append(
                Score(
                    updates=updates,
                    kind=kind,
                    label=kind,
                    member=member,
                    count=0,
                    mean=mean,
                    low=low.get(updates, mean),
                    high=high.get(updates, mean),
                    normalized=normalised.get(updates),
                    environment_steps=int(steps[collected[-1]]) if collected else 0,
                )
            )
    return scores


def _history(client: Any, run: Any, key: str) -> dict[int, float]:
    """The last value of a metric at each step, in order."""
    if key not in run.data.metrics:
        return {}
    points = client.get_metric_history(run.info.run_id, key)
    return {point.step: point.value for point in sorted(points, key=lambda p: (p.step, p.timestamp))}
