"""All that a finished run has left behind, but for times, as values that are equal where two runs are the same."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

TIMES = ("time/", "throughput/", "system/", "collection/")
"""Beginnings of the names of metrics that measure times or the machine."""


def state_of(work: Path) -> dict[str, Any]:
    """Checkpoints to the bit, tables, files by name, and the one run in MLflow, point by point.

    Args:
        work: folder with `run` and `mlflow.db`.

    Raises:
        AssertionError: there is not exactly one run in MLflow, or files are left that only a run in progress has.
    """
    run = work / "run"
    found: dict[str, Any] = {"files": sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())}
    for path in sorted(run.glob("checkpoints/*.ckpt")):
        found[path.name] = _without_times(torch.load(path, weights_only=True))
    for path in sorted(run.rglob("*.csv")):
        with path.open() as file:
            found[path.name] = [{k: v for k, v in row.items() if not _timed(k)} for row in csv.DictReader(file)]
    return found | _mlflow(work)


def _mlflow(work: Path) -> dict[str, Any]:
    """Status, parameters, every point of every curve, and names of artifacts."""
    with sqlite3.connect(f"file:{work / 'mlflow.db'}?mode=ro", uri=True) as store:
        runs = store.execute("select run_uuid, status, artifact_uri from runs").fetchall()
        assert len(runs) == 1, f"{len(runs)} runs in MLflow"
        ((run, status, artifacts),) = runs
        points = store.execute("select key, step, value, is_nan from metrics where run_uuid = ?", (run,)).fetchall()
        parameters = store.execute("select key, value from params where run_uuid = ?", (run,)).fetchall()
    curves: dict[str, list[Any]] = {}
    for name, *point in sorted(points):
        if not name.startswith(TIMES):
            curves.setdefault(name, []).append(point)
    place = Path(artifacts.removeprefix("file://"))
    kept = sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())
    return {"status": status, "curves": curves, "parameters": dict(parameters), "artifacts": kept}


def _timed(name: str) -> bool:
    return name.startswith(TIMES) or "seconds" in name or name in ("time", "date")


def _without_times(tree: Any) -> Any:
    """A checkpoint's content without entries that measure times."""
    if isinstance(tree, Mapping):
        return {key: _without_times(item) for key, item in tree.items() if not (isinstance(key, str) and _timed(key))}
    if isinstance(tree, list | tuple):
        return [_without_times(item) for item in tree]
    return tree


def readable(value: Any) -> str:
    """A state in a file, for people; tensors as their sums."""
    return json.dumps(value, default=lambda x: f"{x.dtype}{list(x.shape)} sum {x.double().sum()}", indent=1)
