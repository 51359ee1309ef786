"""Populations on the grid with a key and a door: rewards of events that evolve, and the reward of wins alone.

    python benchmarks/bench_population.py [--tasks events wins] [--seeds 0 1 2]

Both kinds have as many members, steps, and genes for the learning rate and the entropy. Adds to
`benchmarks/results/population-<task>.json`, from which `benchmarks/report.py` makes tables. The command may be cut
anywhere: a population goes on where it was, and one that has ended is read back from `runs/benchmarks/population`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from measured_by import RESULTS, origin, processor

RUNS = Path("runs/benchmarks/population")
GENES = {"lr": {"low": 5e-4, "high": 3e-3}, "entropy": {"low": 1e-3, "high": 3e-2}}
"""Those of the preset but for the weights of events."""

TASKS: dict[str, tuple[list[str], list[str]]] = {
    "events": ([], []),
    "wins": (["--genes", json.dumps(GENES)], ["--model.internal", "null"]),
}
"""Arguments of the population, and of its members."""


def train(task: str, seed: int) -> dict[str, Any]:
    """Train a population as far as it is not trained, and read its figures.

    Raises:
        subprocess.CalledProcessError: it did not end well.
    """
    own, shared = TASKS[task]
    folder = (RUNS / f"{task}-{seed}").absolute()
    clock = folder / "seconds.json"
    if not list(folder.glob("*/population.png")):
        folder.mkdir(parents=True, exist_ok=True)
        go_on = ["--ckpt_path", "last"] if list(folder.glob("*/population.json")) else []
        command = [sys.executable, "-m", "reverie", "evolve", "--config", "evolve/key_door", *own, *go_on]
        command += ["--seed", str(seed), "--run_dir", str(folder), "--", "--trainer.logger", "false", *shared]
        before, began = json.loads(clock.read_text()) if clock.is_file() else 0.0, time.monotonic()
        try:
            subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        finally:
            clock.write_text(json.dumps(before + time.monotonic() - began))
    (run,) = (path.parent for path in folder.glob("*/population.png"))
    if seed == 0:
        shutil.copyfile(run / "population.png", RESULTS / f"population-{task}.png")
    return {"seed": seed, "minutes": round(json.loads(clock.read_text()) / 60.0, 1), **measured(run)}


def measured(run: Path) -> dict[str, Any]:
    """Wins of the member that was best in its last regular evaluation, over other episodes; and the way there."""
    history = json.loads((run / "population.json").read_text())["history"]
    means = [[returns[0] for returns in generation["returns"]] for generation in history]
    best = means[-1].index(max(means[-1]))
    final = json.loads((run / f"member-{best}" / "final_evaluation.json").read_text())["scores"]
    (last,) = [score for score in final if score["kind"] == "last"]
    genes = history[-1]["genes"][best]
    return {
        "best": best, "wins": last["mean"], "low": last["low"], "high": last["high"], "episodes": last["count"],
        "steps": last["environment_steps"], "members": len(means[-1]), "genes": genes,
        "bests": [max(row) for row in means], "means": [sum(row) / len(row) for row in means],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    asked = parser.parse_args()
    for seed in asked.seeds:
        for task in asked.tasks:
            path = RESULTS / f"population-{task}.json"
            content = json.loads(path.read_text()) if path.is_file() else {"runs": []}
            runs = [run for run in content["runs"] if run["seed"] != seed] + [train(task, seed)]
            content = {"command": "python benchmarks/bench_population.py", "processor": processor(), "origin": origin()}
            content |= {"date": datetime.date.today().isoformat(), "runs": sorted(runs, key=lambda run: run["seed"])}
            path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
