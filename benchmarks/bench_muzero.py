"""Learning of the MuZero family: what is to be reached, run by run, and what search adds to the policy.

    python benchmarks/bench_muzero.py [--cells cartpole cartpole-4 ...] [--seeds 0 1 2] [--finished]

A cell is a task of `muzero_cells.py` and a seed: one `reverie fit` in a process with one thread, and the plays of its
last weights, one after the other. Its figures are added to `benchmarks/results/muzero-<cell>.json` as soon as it has
ended. A cell that is there is not run again, and the command may be cut anywhere: a training goes on at its last
checkpoint, trainings and plays that have ended are read back from `runs/benchmarks`. `--finished` adds what has ended
there, and trains and plays nothing. `benchmarks/report.py` makes the tables.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from learning_runs import Unfinished, add, measured_seeds, place, recorded, reverie, run
from muzero_cells import CELLS, Cell
from muzero_horizons import horizons
from resumed_runs import key_of, log, read_facts

from callbacks.files.written_aside import written_aside

RECORDED = Path("data/minari/cartpole/mixed-v0")
"""Episodes that `muzero/cartpole_offline` learns from."""


def measure(cell: Cell, name: str, seed: int) -> None:
    """Train one cell and play with it, as far as that is not done, and add its figures.

    Raises:
        Unfinished: the training did not end well, or another command is at it.
        subprocess.CalledProcessError: a play failed.
    """
    title = f"{name}, seed {seed}"
    add(name, cell.task, run(name, cell.task, seed, functools.partial(afterwards, cell, title), data_of(cell)))


def data_of(cell: Cell) -> str:
    """Hash of the recorded episodes that a cell learns from; empty where it learns from none."""
    return recorded(RECORDED, "collect/cartpole") if cell.above_data else ""


def afterwards(cell: Cell, title: str, directory: Path) -> dict[str, Any]:
    """Play with the last weights of a run, unless its folder has the results of a play; and its horizons by age."""
    found = {}
    for name, arguments in cell.plays.items():
        path = file_of_play(directory, name, arguments)
        if not path.is_file():
            log(f"{title}: playing, {name}")
            members = played(directory / "checkpoints" / "last.ckpt", arguments)
            with written_aside(path) as aside:
                aside.write_text(json.dumps(members) + "\n")
        found[name] = json.loads(path.read_text())
    return {"plays": found, "horizons": horizons(directory)}


def file_of_play(directory: Path, name: str, arguments: Sequence[str]) -> Path:
    """The file in the folder of a run that has the results of a play."""
    slug = re.sub(r"[^\w.-]+", "-", name)
    return directory / "plays" / f"{slug}-{key_of(arguments)}.json"


def played(checkpoint: Path, arguments: Sequence[str]) -> list[dict[str, Any]]:
    """Mean returns, and shares of games that were won where these are told, of each policy that was played."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "played.json"
        reverie("evaluate", "--ckpt_path", str(checkpoint), *arguments, "--output", str(output))
        members = json.loads(output.read_text())["members"]
    kept = ("member", "mean", "low", "high")
    return [{k: member[k] for k in kept} | {"success": member["numbers"].get("success_rate")} for member in members]


def has_ended(cell: Cell, name: str, seed: int) -> bool:
    """Whether the training and all plays of a cell have ended, and only its figures are not added."""
    if cell.above_data and not RECORDED.exists():
        return False
    directory, _ = place(name, cell.task, seed, data_of(cell))
    files = [file_of_play(directory, play, arguments) for play, arguments in cell.plays.items()]
    return read_facts(directory)["status"] == "done" and all(path.is_file() for path in files)


def fill(cells: Sequence[tuple[str, int]], only_finished: bool) -> bool:
    """Measure the cells and seeds that have no figures yet, one after the other; whether all of them went well."""
    waiting = [(name, seed) for name, seed in cells if seed not in measured_seeds(f"muzero-{name}")]
    log(f"{len(cells) - len(waiting)} of {len(cells)} cells were measured before")
    started, good = time.monotonic(), True
    for place_in_line, (short, seed) in enumerate(waiting, 1):
        cell, name = CELLS[short], f"muzero-{short}"
        head = f"[{place_in_line}/{len(waiting)}] {name}, seed {seed}"
        if only_finished and not has_ended(cell, name, seed):
            log(f"{head}: not finished")
            continue
        try:
            measure(cell, name, seed)
        except (Unfinished, subprocess.CalledProcessError) as error:
            good = False
            log(f"{head}: {error}")
        else:
            others = len(waiting) - place_in_line
            left = (time.monotonic() - started) / place_in_line * others / 60
            log(f"{head}: done; about {left:.0f} min for the {others} others")
    return good


def main() -> int:
    """Run the cells that the command line names and that are not there yet; 1 if one of them has no figures then."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--finished", action="store_true", help="add what has ended, and train and play nothing")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a training is ended in good order
    cells = [(name, seed) for seed in options.seeds for name in options.cells]  # the tables fill evenly
    return 0 if fill(cells, options.finished) else 1


if __name__ == "__main__":
    sys.exit(main())
