"""Learning results of one algorithm: runs of committed configs, seed by seed, into one file for each task.

Each run is one `reverie fit` in a process with one thread, in a folder below `runs/benchmarks`: one that was cut goes
on at its last checkpoint, one that has ended is read back. Its figures are added to
`benchmarks/results/<benchmark>-<task>.json`; `benchmarks/report.py` makes the tables from them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from measured_by import RESULTS, origin, processor
from resumed_runs import finished, key_of, log, read_rows

import commands.quiet  # noqa: F401 - before torch is imported
from callbacks.files.written_aside import written_aside
from commands.config_files import ConfigFile
from commands.parsing import find_config
from datamodules.recorded.card import describe
from datamodules.recorded.conversion import convert

Task = tuple[str, tuple[str, ...]]
"""A config and further arguments of `reverie fit`."""
RUNS = Path("runs/benchmarks")


class Unfinished(RuntimeError):
    """A run that has no figures: it was refused, failed, or another command is at it."""


def place(name: str, task: Task, seed: int, data: str = "") -> tuple[Path, list[str]]:
    """Folder and arguments of the run of a seed.

    Args:
        name: benchmark and task.
        task: config and further arguments.
        seed: the seed.
        data: hash of the data that it learns from, where they are files.
    """
    config, extra = task
    arguments = ["--config", config, "--seed_everything", str(seed), *extra]
    configs = [arguments[n + 1] for n, argument in enumerate(arguments) if argument == "--config"]
    contents = [ConfigFile.read(find_config(config)).content for config in configs]
    return (RUNS / name / f"seed={seed}-{key_of(arguments, contents, data)}").absolute(), arguments


def run(name: str, task: Task, seed: int, measure: Callable[[Path], dict[str, Any]], data: str = "") -> dict[str, Any]:
    """Train one seed as far as it is not trained; its figures, and what `measure` finds in the run's directory.

    Raises:
        Unfinished: it did not end well, or another process is at it.
    """
    directory, arguments = place(name, task, seed, data)
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(directory / ".measured.lock", timeout=0):
            facts = finished(directory, arguments, 1, lambda text: log(f"{name}, seed {seed}: {text}"))
            if facts["status"] != "done":
                raise Unfinished(f"{facts['status']} ({facts['reason']}), see {directory / 'log.txt'}")
            measured = measure(directory)
    except Timeout as error:
        raise Unfinished("another command is at it") from error
    when = datetime.date.today().isoformat()
    rows = read_rows(directory / "evaluation.csv")
    found = origin([directory], {"recorded": data} if data else {})
    return {
        "seed": seed,
        "minutes": round(facts["seconds"] / 60, 1),
        "date": when,
        "rows": rows,
        "origin": found,
        **measured,
    }


def recorded(path: Path, config: str) -> str:
    """Hash of recorded episodes, which `reverie collect` writes by this config if they are not there."""
    if not path.exists():
        reverie("collect", "--config", config)
    return content_hash(path)


def content_hash(path: Path) -> str:
    """Hash of recorded episodes, wherever they lie."""
    return str(describe(convert([str(path)])).content_hash)


def reverie(*arguments: str) -> None:
    """One command, with one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "reverie", *arguments], check=True, env=environment)


def measured_seeds(name: str) -> set[int]:
    """Seeds whose figures are there."""
    path = RESULTS / f"{name}.json"
    return {r["seed"] for r in json.loads(path.read_text())["runs"]} if path.exists() else set()


def add(name: str, task: Task, result: dict[str, Any]) -> None:
    """Put a seed's figures into the task's file; those of an earlier run of the seed go."""
    path = RESULTS / f"{name}.json"
    config, extra = task
    command = " ".join(["reverie fit --config", config, *(f"'{a}'" if " " in a else a for a in extra)])
    content = {"task": name.partition("-")[2], "command": command, "processor": processor(), "runs": []}
    RUNS.mkdir(parents=True, exist_ok=True)
    with FileLock(RUNS / ".results.lock"):  # commands side by side may measure seeds of one task
        if path.exists():
            content["runs"] = [r for r in json.loads(path.read_text())["runs"] if r["seed"] != result["seed"]]
        content["runs"] = sorted([*content["runs"], result], key=lambda r: r["seed"])
        with written_aside(path) as aside:
            aside.write_text(json.dumps(content, indent=1) + "\n")


def main(
    about: str | None,
    benchmark: str,
    tasks: Mapping[str, Task],
    measure: Callable[[Path], dict[str, Any]] = lambda directory: {},
    seeds: Sequence[int] = (0, 1, 2),
    data: Callable[[str], str] = lambda task: "",
) -> None:
    """Run the tasks and seeds that the command line names, one after the other.

    Args:
        about: text of the help.
        benchmark: name of the benchmark, with which its results begin.
        tasks: what there is to run, by name.
        measure: finds further figures in a run's directory.
        seeds: seeds of a command line that names none.
        data: makes the recorded data of a task where they are not there, and gives their hash; empty without data.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(tasks), default=list(tasks))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(seeds))
    options = parser.parse_args()
    for task in options.tasks:
        for seed in options.seeds:
            name = f"{benchmark}-{task}"
            add(name, tasks[task], run(name, tasks[task], seed, measure, data(task)))
