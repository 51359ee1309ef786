"""The runs that `compare` is given: folders of runs, or experiments and runs of MLflow."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from callbacks.evaluation.compared import ComparedRun, Task
from callbacks.evaluation.report import Score
from callbacks.mlflow.afterwards import logged_run, store_address
from callbacks.mlflow.logged_scores import read_logged, seconds_of
from callbacks.mlflow.provenance import settings
from callbacks.mlflow.store import SQLITE, open_store
from commands.run_directory import NAMES
from commands.ui import find_store
from datamodules.envs.from_file import read_plain
from datamodules.recorded.dataset_info import NO_REFERENCES, yardstick_text
from modules.agent.checkpoint_file import read_checkpoint
from modules.trust.names import short

CONFIG, TABLE = "config.yaml", "evaluation.csv"
"""Files in a run's folder."""

DEEP = 3
"""Folders below one that is given, in which runs are looked for."""


def find_runs(given: Sequence[str], tracking_uri: str | None, counted: Callable[[str], None]) -> list[ComparedRun]:
    """All runs that are meant, members of populations apart, each once.

    Args:
        given: folders of runs, or with runs in them; names of experiments and ids of runs of MLflow.
        tracking_uri: store of the latter; by default that of the environment, or mlflow.db.
        counted: is called with the name of each folder or experiment before it is read.

    Raises:
        ValueError: there is no such folder, experiment or run, nothing in it was scored, or a file of it is damaged.
    """
    store = cache(open_store)
    found: list[ComparedRun] = []
    for word in given:
        if Path(word).is_dir():
            for folder in _folders(Path(word)):
                counted(str(folder))
                found += read_folder(folder, store)
        elif os.sep in word:
            raise ValueError(f"no folder at {short(word, 150)}")
        else:
            counted(word)
            uri = store_address(tracking_uri)
            if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).is_file():
                raise ValueError(f"{short(word, 150)} is no folder, and there is no {uri} with experiments")
            found += read_logged(store(uri), word)
    return list({run.name: run for run in found}.values())


def _folders(root: Path) -> list[Path]:
    """The folder, or those below it, with a config and scores.

    Raises:
        ValueError: there is none.
    """
    depths = ["/".join(["*"] * depth) for depth in range(1, DEEP + 1)]
    places = [root, *(folder for depth in depths for folder in sorted(root.glob(depth)))]
    found = [folder for folder in places if (folder / CONFIG).is_file() and (folder / TABLE).is_file()]
    if not found:
        raise ValueError(
            f"no run in {root} has {CONFIG} and {TABLE}: the latter is there after the first evaluation of a run of "
            "`reverie fit` whose agent acts"
        )
    return found


def read_folder(folder: Path, store: Callable[[str], Any]) -> list[ComparedRun]:
    """The run in a folder, or its members.

    Args:
        folder: folder of a run.
        store: opens an MLflow store, where the wall time is.

    Raises:
        ValueError: a file is damaged.
    """
    try:
        config = settings(folder / CONFIG)
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise ValueError(f"{folder / CONFIG} is damaged: {short(str(error), 100)}") from error
    scores = read_scores(folder / TABLE)
    members = list(dict.fromkeys(score.member for score in scores if score.member))
    environment, data = _facts(folder)
    task = Task.of(environment, data.get("name"), data.get("content_hash"), str(folder))
    ends = data.get("reference_min"), data.get("reference_max")
    yardstick = yardstick_text(*ends, data.get("reference_source", NO_REFERENCES))
    seconds = _seconds(folder, store)
    return [
        ComparedRun(str(folder), config, member, task, yardstick, mine, seconds, folder.name)
        for member in members or [""]
        if (mine := [score for score in scores if score.member == member])
    ]


def read_scores(path: Path) -> list[Score]:
    """The scores that `write_csv` wrote, without numbers of the episodes.

    Raises:
        ValueError: the file is damaged.
    """
    hints = {field.name: str(field.type) for field in fields(Score)}
    kinds: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "str": str, "float | None": _number}
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        return [
            Score(**{name: kinds[hints[name]](text) for name, text in row.items() if hints.get(name) in kinds})
            for row in rows
        ]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise ValueError(f"{path} is damaged: {short(str(error), 100)}") from error


def _number(text: str) -> float | None:
    return float(text) if text else None


def _facts(folder: Path) -> tuple[Mapping[str, Any] | None, Mapping[str, Any]]:
    """Environment and data that the newest checkpoint of a run names; None and {} where it keeps none."""
    for path in _checkpoints(folder):
        content = read_checkpoint(path, "cpu")
        environment = content.get("environment")
        plain = None if environment is None else read_plain(environment, str(path))
        return plain, content.get("dataset") or {}
    return None, {}


def _checkpoints(folder: Path) -> Iterator[Path]:
    for name in ("last", "best"):
        if (path := folder / "checkpoints" / NAMES[name]).is_file():
            yield path


def _seconds(folder: Path, store: Callable[[str], Any]) -> list[tuple[int, float]]:
    """The wall time of a run, which MLflow alone has; nothing where it was not logged there or the store is gone."""
    try:
        logged = logged_run(folder)
        return [] if logged is None else seconds_of(store(find_store(folder).uri), logged.run_id)
    except ValueError:
        return []
