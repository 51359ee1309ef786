"""ARMOR against ATAC and against the cloned policy that it must not fall below, on the same data with equal updates.

    python benchmarks/bench_armor.py --sets FILE... [--seeds 0 1 2] [--updates N] [--adversarial WEIGHT...]
        [--episodes 100] [--threads 1] [--root FOLDER] [--results FOLDER] [-- ARGUMENT...]

Cloning, ATAC and ARMOR are the presets `cloning/mujoco`, `atac/mujoco` and `armor/mujoco`, shortened to at most N
updates each, none tuned by returns; nothing but their evaluations plays the environment that the data name. ARMOR's
reference is the policy that its own warm start ends with. `--adversarial` trains ARMOR once more for each weight of the
model's part of the game, 0 being a model that the data alone teach. Seeds follow one another and share a process, as
members. What stands after `--` is given to every `reverie fit`.

One training runs at a time, in a folder below `--root`. One that has ended is never trained again, one that was
interrupted goes on at its last checkpoint. `armor.json` in `--results` is written after each;
`python benchmarks/report.py` makes the table.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import armor_results
from filelock import FileLock, Timeout
from measured_by import RESULTS, origin, processor
from offline_cells import Budget, Cell, Dataset, contestant, make_cell, read_dataset, train
from offline_table import shown
from resumed_runs import log

from callbacks.files.written_aside import written_aside

AGENTS = ("cloning", "atac", "armor")


def cells_of(sets: Sequence[Dataset], options: argparse.Namespace, root: Path) -> list[Cell]:
    """The trainings set by set: cloning, ATAC, ARMOR, and ARMOR with each other weight."""
    extra = ("--seed_everything", str(options.seeds[0]), *options.extra)
    budget = Budget(len(options.seeds), options.updates, options.episodes, options.threads, extra)
    armor = contestant("armor")
    runs = [(contestant(name), budget) for name in AGENTS]
    for weight in options.adversarial:
        weighed = replace(budget, extra=(*extra, "--model.dynamics.adversarial", f"{weight:g}"))
        runs.append((replace(armor, name=f"{armor.name}, adversarial {weight:g}"), weighed))
    return [make_cell(dataset, agent, spent, root) for dataset in sets for agent, spent in runs]


def measure(cells: Sequence[Cell], content: dict[str, Any], results: Path) -> bool:
    """Train the cells one after the other and write what is known after each; whether all of them went well."""
    results.mkdir(parents=True, exist_ok=True)
    for place, cell in enumerate(cells, 1):
        head = f"[{place}/{len(cells)}] {cell.title}"
        log(f"{head}: in {cell.folder}")
        result = train(cell, lambda text, head=head: log(f"{head}: {text}"))  # type: ignore[misc]
        content["cells"].append(result)
        with written_aside(results / armor_results.FILE) as aside:
            aside.write_text(json.dumps(content, indent=1) + "\n")
        log(f"{head}: {result['status']}" + (f" ({result['reason']})" if result["reason"] else ""))
    return all(result["status"] == "done" for result in content["cells"])


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments; those after `--` as `extra`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", required=True, metavar="FILE")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--updates", type=int, help="most gradient updates of each; default: the presets'")
    parser.add_argument("--adversarial", nargs="+", type=float, default=[], metavar="WEIGHT")
    parser.add_argument("--episodes", type=int, default=100, help="of each seed's last evaluation")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--root", type=Path, default=Path("runs/bench_armor"), help="folder of the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of armor.json")
    cut = list(argv).index("--") if "--" in argv else len(argv)
    options = parser.parse_args(argv[:cut])
    options.extra = tuple(argv[cut + 1 :])
    if options.seeds != [*range(options.seeds[0], options.seeds[0] + len(options.seeds))] or options.seeds[0] < 0:
        parser.error(f"--seeds must follow one another, such as 0 1 2, got {' '.join(map(str, options.seeds))}")
    for name in ("updates", "episodes", "threads"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return options


def main(argv: Sequence[str]) -> int:
    """Measure; 1 if a training failed, 2 after a mistake in the arguments."""
    options = parse(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a training is ended in good order
    root = options.root.resolve()
    root.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(root / ".lock", timeout=0):
            sets: list[Dataset] = []
            for source in options.sets:
                sets.append(read_dataset(source, None, [dataset.name for dataset in sets]))
            names = {dataset.source: dataset.facts["source"] for dataset in sets}
            content = {
                "command": shlex.join(["python", "benchmarks/bench_armor.py", *(names.get(a, a) for a in shown(argv))]),
                "date": datetime.date.today().isoformat(),
                "processor": processor(),
                "origin": origin(data={d.facts["set"]: d.facts["content_hash"] for d in sets}),
                "seeds": options.seeds,
                "episodes": options.episodes,
                "threads": options.threads,
                "sets": [dataset.facts for dataset in sets],
                "cells": [],
            }
            good = measure(cells_of(sets, options, root), content, options.results)
    except Timeout:
        print(f"another benchmark runs in {root}: wait until it ends, or choose another --root", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(armor_results.tables(options.results)))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
