"""Learning of the MuZero family: what is to be reached, run by run, and what search adds to the policy.

    python benchmarks/bench_muzero.py [--cells cartpole cartpole-4 ...] [--seeds 0 1 2]

A cell is a task of `muzero_cells.py` and a seed: one `reverie fit` in a process with one thread, and the plays of its
last weights, one after the other. Its figures are added to `benchmarks/results/muzero-<cell>.json`. A cell that is
there is not run again, so that the tables can be made in pieces, and an interrupted command goes on where it was.
`benchmarks/report.py` makes the tables from them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_learning import RESULTS
from learning_runs import add, run
from muzero_cells import CELLS, Cell

RECORDED = Path("data/minari/cartpole/mixed-v0")
"""Episodes that `muzero/cartpole_offline` learns from."""


def done(name: str) -> set[int]:
    """Seeds whose figures are there."""
    path = RESULTS / f"{name}.json"
    return {r["seed"] for r in json.loads(path.read_text())["runs"]} if path.exists() else set()


def measure(name: str, seed: int) -> None:
    """Train one cell and play with it, unless its figures are there."""
    cell, name = CELLS[name], f"muzero-{name}"
    if seed in done(name):
        print(f"{name}, seed {seed}: measured before", flush=True)
        return
    if cell.above_data and not RECORDED.exists():
        reverie("collect", "--config", "collect/cartpole")
    add(name, cell.task, run(name, cell.task, seed, plays_of(cell)))


def plays_of(cell: Cell) -> Callable[[Path], dict[str, Any]]:
    """A function that plays with the last weights of a run, given its directory."""

    def play(directory: Path) -> dict[str, Any]:
        checkpoint = directory / "checkpoints" / "last.ckpt"
        return {"plays": {name: played(checkpoint, arguments) for name, arguments in cell.plays.items()}}

    return play


def played(checkpoint: Path, arguments: tuple[str, ...]) -> list[dict[str, Any]]:
    """Mean returns, and shares of games that were won where these are told, of each policy that was played."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "played.json"
        reverie("evaluate", "--ckpt_path", str(checkpoint), *arguments, "--output", str(output))
        members = json.loads(output.read_text())["members"]
    kept = ("member", "mean", "low", "high")
    return [{k: member[k] for k in kept} | {"success": member["numbers"].get("success")} for member in members]


def reverie(*arguments: str) -> None:
    """One command, with one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "reverie", *arguments], check=True, env=environment)


def main() -> None:
    """Run the cells that the command line names and that are not there yet, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    for seed in options.seeds:  # the tables fill evenly
        for name in options.cells:
            measure(name, seed)


if __name__ == "__main__":
    main()
