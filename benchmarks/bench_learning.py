"""Learning results of ATAC: three seeds per dataset, with cloning, the data and a wrong-reward control beside them.

    python benchmarks/bench_learning.py --datasets DIR [--tasks pendulum-mixed hopper-medium ...]

Each task is one `reverie fit` of a committed config with three members; `DIR` holds `<dataset>.h5`. The figures of each
run are written to `benchmarks/results/learning-<task>.json`; `benchmarks/report.py` makes the tables from them.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import subprocess
import sys
import time
from pathlib import Path

from measured_by import RESULTS, origin, processor
from resumed_runs import number

import commands.quiet  # noqa: F401 - before torch is imported
from datamodules.recorded.sources import content_hash

CONTROL = ("--data.shuffle_rewards", "true")
# task: dataset, config, further arguments
TASKS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "pendulum-mixed": ("pendulum-mixed", "atac/pendulum", ()),
    "pendulum-mixed-shuffled": ("pendulum-mixed", "atac/pendulum", CONTROL),
    "pendulum-mixed-moe": ("pendulum-mixed", "atac/pendulum_moe", ()),
    "pendulum-mixed-bf16": ("pendulum-mixed", "atac/pendulum", ("--trainer.precision", "bf16-mixed")),
    "hopper-medium": ("hopper-medium", "atac/hopper", ()),
    "hopper-medium-shuffled": ("hopper-medium", "atac/hopper", CONTROL),
    "hopper-medium-replay": ("hopper-medium-replay", "atac/hopper", ()),
    "halfcheetah-medium": ("halfcheetah-medium", "atac/halfcheetah", ()),
}


def run(task: str, datasets: Path, seeds: int) -> None:
    """Train one task and write its figures."""
    dataset, config, extra = TASKS[task]
    root = Path("runs") / f"benchmark-{task}"
    arguments = ["fit", "--config", config, "--model.seeds", str(seeds), "--run_dir", str(root), *extra]
    file = datasets / f"{dataset}.h5"
    source = ["--data.source", str(file)]
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "reverie", *arguments, *source], check=True)
    minutes = (time.perf_counter() - start) / 60
    directory = max(p for p in root.iterdir() if p.is_dir())
    with (directory / "evaluation.csv").open() as file:
        rows = [{k: number(v) for k, v in row.items()} for row in csv.DictReader(file)]
    content = {
        "task": task,
        "dataset": dataset,
        "command": " ".join(["reverie", *arguments, "--data.source", f"DIR/{dataset}.h5"]),
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "origin": origin([directory], {dataset: content_hash(file)}),
        "seeds": seeds,
        "minutes": round(minutes, 1),
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"learning-{task}.json").write_text(json.dumps(content, indent=1) + "\n")
    (RESULTS / f"learning-{task}.png").write_bytes((directory / "learning_curve.png").read_bytes())


def main() -> None:
    """Run the chosen tasks one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    for task in options.tasks:
        run(task, options.datasets, options.seeds)


if __name__ == "__main__":
    main()
