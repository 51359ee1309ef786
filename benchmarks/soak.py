"""Trains for very long and watches what must not grow: memory, open files, threads, and the folder of the run.

    python benchmarks/soak.py                                 # a million updates of a tiny agent
    python benchmarks/soak.py --case dreamer --minutes 120    # a real one, until the time is over

The same command goes on where it was interrupted. A look every few seconds is in `runs/soak/CASE/looks.jsonl`. When the
run is over they are in `results/soak-CASE.json`, with a figure; the status is 1 where `soak_results.py` finds that
something has grown.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/helpers")]
import commands.quiet  # noqa: E402, F401 - must come before torch

# isort: split
import psutil  # noqa: E402
from fit_command import write_dataset  # noqa: E402 - the random dataset that tests of whole runs learn from
from measured_by import RESULTS, origin  # noqa: E402
from pytorch_lightning import Callback, LightningModule, Trainer  # noqa: E402
from soak_results import draw, grown, growth  # noqa: E402

from commands.lightning import run  # noqa: E402
from commands.run_directory import VARIABLE  # noqa: E402

EVERY_SECONDS = 5.0
"""From one look to the next."""
MOST_LOOKS = 500
"""Looks that a result keeps, spread evenly."""

CASES: dict[str, tuple[str, ...]] = {
    "tiny": (
        "--model", "ATAC", "--model.hidden", "[16,16]", "--model.warm_start.updates", "100",
        "--data", "OfflineDataModule", "--data.source", "random.npz", "--data.batch_size", "32",
        "--data.updates_per_epoch", "200",
    ),
    "dreamer": ("--config", "dreamer/catch"),
    "sac": ("--config", "sac/pendulum"),
}  # fmt: skip
"""Arguments of `reverie fit` by name."""


class Looks(Callback):
    """Writes a line about the process and its folder, now and then, and ends the run when its time is over.

    Args:
        file: takes the lines.
        folder: folder of the run and all that it writes.
        seconds: wall time of all starts of the run together; 0 for no limit.
    """

    def __init__(self, file: Path, folder: Path, seconds: float) -> None:
        self.file = file
        self.folder = folder
        self.seconds = seconds
        before = read_looks(file)
        self.spent = before[-1]["seconds"] if before else 0.0
        self.start = before[-1]["start"] + 1 if before else 0
        self.began = time.monotonic()
        self.last = -EVERY_SECONDS

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A look, if it is time for one."""
        now = time.monotonic() - self.began
        if now - self.last < EVERY_SECONDS:
            return
        self.last = now
        look = {"updates": trainer.global_step, "seconds": round(self.spent + now, 1), "start": self.start}
        with self.file.open("a") as lines:
            lines.write(json.dumps(look | held(self.folder)) + "\n")
        if 0 < self.seconds <= look["seconds"]:
            trainer.should_stop = True


def held(folder: Path) -> dict[str, int]:
    """All that this process, those that it has started, and a folder hold on to: bytes, and numbers of things."""
    process = psutil.Process()
    memory = process.memory_info().rss
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            memory += child.memory_info().rss
    sizes = {}
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # a file that was written aside has its name by now
            if path.is_file():
                sizes[path.name] = sizes.get(path.name, 0) + path.stat().st_size
    database = sum(size for name, size in sizes.items() if name.startswith("mlflow.db"))
    return {
        "memory": memory,
        "files": process.num_fds(),
        "threads": process.num_threads(),
        "folder": sum(sizes.values()) - database,
        "database": database,
    }


def read_looks(file: Path) -> list[dict[str, Any]]:
    """The lines of a file of looks; none where there is no file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def soak(case: str, folder: Path, updates: int, seconds: float) -> list[dict[str, Any]]:
    """Start a run, or go on with it, until its end; all looks at it.

    Args:
        case: of `CASES`.
        folder: all that the run reads and writes is below `folder/work`, the looks are beside it.
        updates: updates at which it ends.
        seconds: wall time of all starts after which it ends; 0 for no limit.
    """
    work = folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "random.npz").exists():
        write_dataset(work / "random.npz", episodes=60, length=25)
    os.chdir(work)
    os.environ |= {VARIABLE: str(work / "run"), "REVERIE_CACHE": str(folder / "cache")}
    looks = Looks(folder / "looks.jsonl", work, seconds)
    # One command for the first start and for all others; the epochs never end it.
    limits = ("--trainer.max_steps", str(updates), "--trainer.max_epochs", "-1", "--ckpt_path", "last")
    run("fit", [*CASES[case], *limits], [looks])
    return read_looks(looks.file)


def main() -> None:
    """Start or continue a run, and write its result when it is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=list(CASES), default="tiny")
    parser.add_argument("--updates", type=int, default=1_000_000, help="updates, if the time is not over before")
    parser.add_argument("--minutes", type=float, default=0.0, help="wall time; 0 for no limit")
    options = parser.parse_args()
    folder = (ROOT / "runs/soak" / options.case).resolve()
    looks = soak(options.case, folder, options.updates, 60 * options.minutes)
    # The result, of looks that are spread evenly; growth is that of all.
    found = growth(looks)
    kept = looks[:: -(-len(looks) // MOST_LOOKS)]
    content = {"case": options.case, "looks": kept, "growth": found, "origin": origin([folder / "work/run"])}
    result = RESULTS / f"soak-{options.case}.json"
    result.write_text(json.dumps(content) + "\n")
    draw(RESULTS)
    print(f"{result.relative_to(ROOT)}: {json.dumps(found)}")
    if names := grown(found):
        sys.exit(f"what must not grow has grown: {', '.join(names)}")


if __name__ == "__main__":
    main()
