"""Self-play of capture the flag: how strong the copies of a run are, by a round-robin among all of them.

    python benchmarks/bench_capture_flag.py [--seeds 0 1 2]

Adds to `benchmarks/results/capture-flag-<task>.json`, from which `benchmarks/report.py` makes a table and a figure. It
may be cut anywhere: a run that was cut goes on at its last checkpoint, and one that has ended is read back from its
folder below `runs/benchmarks`; remove that to run it again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from learning_runs import Task, main
from resumed_runs import read_rows

TASKS: dict[str, Task] = {"ppo": ("ppo/capture_flag", ())}


def ratings(directory: Path) -> dict[str, Any]:
    """The table that the run's own round-robin left."""
    return {"ratings": read_rows(directory / "ratings.csv")}


if __name__ == "__main__":
    main(__doc__, "capture-flag", TASKS, ratings)
