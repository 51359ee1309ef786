"""Learning results of one algorithm: runs of committed configs, seed by seed, into one file for each task.

Each run is one `reverie fit` in a process with one thread. Its figures are added to
`benchmarks/results/<benchmark>-<task>.json`; `benchmarks/report.py` makes the tables from them.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench_learning import RESULTS, number, processor

Task = tuple[str, tuple[str, ...]]
"""A config and further arguments of `reverie fit`."""


def run(name: str, task: Task, seed: int, measure: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Train one seed; its figures, and what `measure` finds in the run's directory."""
    config, extra = task
    root = Path("runs") / f"benchmark-{name}-{seed}"
    arguments = ["fit", "--config", config, "--seed_everything", str(seed), "--run_dir", str(root), *extra]
    start = time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "reverie", *arguments], check=True, env=environment)
    minutes = (time.perf_counter() - start) / 60
    directory = max(p for p in root.iterdir() if p.is_dir())
    with (directory / "evaluation.csv").open() as file:
        rows = [{k: number(v) for k, v in row.items()} for row in csv.DictReader(file)]
    when = datetime.date.today().isoformat()
    return {"seed": seed, "minutes": round(minutes, 1), "date": when, "rows": rows, **measure(directory)}


def add(name: str, task: Task, result: dict[str, Any]) -> None:
    """Put a seed's figures into the task's file; those of an earlier run of the seed go."""
    path = RESULTS / f"{name}.json"
    config, extra = task
    command = " ".join(["reverie fit --config", config, *(f"'{a}'" if " " in a else a for a in extra)])
    content = {"task": name.partition("-")[2], "command": command, "processor": processor(), "runs": []}
    if path.exists():
        content["runs"] = [r for r in json.loads(path.read_text())["runs"] if r["seed"] != result["seed"]]
    content["runs"] = sorted([*content["runs"], result], key=lambda r: r["seed"])
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def main(
    about: str | None,
    benchmark: str,
    tasks: Mapping[str, Task],
    measure: Callable[[Path], dict[str, Any]] = lambda directory: {},
) -> None:
    """Run the tasks and seeds that the command line names, one after the other."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(tasks), default=list(tasks))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    for task in options.tasks:
        for seed in options.seeds:
            name = f"{benchmark}-{task}"
            add(name, tasks[task], run(name, tasks[task], seed, measure))
