"""A run in MLflow as the folder of the run knows it: its ids, and that it is being made."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from callbacks.files.written_aside import written_aside
from modules.trust.hints import fits

START_FILE = ".mlflow_start"
"""File of a folder whose run is being made: a name for it, until `mlflow_run.json` has its id."""
START_TAG = "reverie.start"

MOST_CHILDREN = 10_000
"""As many members as a population may have."""


def created_run(client: Any, experiment: str, folder: Path, tags: Mapping[str, str], name: str | None) -> str:
    """Id of a new run; of the one that an earlier process had made, but not written down, when it was killed.

    Args:
        client: `MlflowClient` of the store.
        experiment: id of the experiment.
        folder: folder of the run.
        tags: tags of a new run.
        name: name of a new run; None for one that the store chooses.
    """
    file = folder / START_FILE
    start = file.read_text(errors="replace") if file.is_file() else ""
    if re.fullmatch(r"[0-9a-f]{32}", start):
        if found := client.search_runs([experiment], f"tags.`{START_TAG}` = '{start}'", max_results=1):
            return str(found[0].info.run_id)
    else:
        start = uuid.uuid4().hex
        with written_aside(file) as aside:
            aside.write_text(start)
    return str(client.create_run(experiment, tags={**tags, START_TAG: start}, run_name=name).info.run_id)


def children_of(client: Any, experiment: str, run_id: str) -> dict[str, str]:
    """Ids of the runs of a run's members, by the members' names."""
    found = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'", max_results=MOST_CHILDREN)
    return {run.data.tags["member"]: str(run.info.run_id) for run in found if "member" in run.data.tags}


def saved_run(path: Path) -> dict[str, Any] | None:
    """The content of `mlflow_run.json`, or None where there is none.

    Raises:
        ValueError: it is damaged.
    """
    if not path.is_file():
        return None
    try:
        saved = json.loads(path.read_text())
    except (ValueError, RecursionError):  # no text, or no JSON
        saved = None
    kinds: dict[str, Any] = {"run_id": str, "tracking_uri": str, "children": dict[str, str]}
    good = isinstance(saved, dict) and all(fits(saved.get(key), kind) for key, kind in kinds.items())
    if not good or not fits(saved.get("renamed", {}), dict[str, str]):
        raise ValueError(f"{path} is damaged: move it away, and the run goes on under a new one in MLflow")
    return saved
