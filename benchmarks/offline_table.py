"""One table of offline learning: agents x datasets x seeds, beside the data themselves.

    python benchmarks/offline_table.py --sets FILE... [--agents cloning td3_bc iql cql atac] [--seeds 3] [--updates N]
        [--episodes 100] [--threads 1] [--deciles] [--select [TEXT]] [--environment ID] [--results FOLDER]
        [--title TEXT] [-- ARGUMENT...]

A set is a file, a folder or a Minari id of any kind that `reverie fit` reads; it is played in the environment that it
names, or in `--environment` where it names none; without either the table has its offline columns alone. An agent is a
preset `<agent>/mujoco`, or any other config by its name (`atac/hopper`); `--updates` shortens presets that are longer.
What stands after `--` is given to every `reverie fit`. `--deciles` adds the best tenth of each set's episodes as a set.
`--select` has `reverie select` choose among the last policies of all agents and seeds of a set by the data alone, and
shows the fitted values and what the chosen one is worth; on a processor that takes as long as an agent or longer.

One training runs at a time. A cell that has ended is read back from its folder below `--root`, never trained again; one
that was interrupted goes on at its last checkpoint, and one that failed is tried again by the next call. Where a call
was killed and left a training behind, the next one names its process and waits for it. The folder `--results` receives
`offline-table.json` and `.md` after every cell, `-curves.csv` and two pictures after every set; `--results
benchmarks/results` and `python benchmarks/report.py` put them into benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import offline_results
from filelock import FileLock, Timeout
from measured_by import origin, processor
from offline_cells import Budget, Cell, Dataset, contestant, make_cell, read_dataset, train
from offline_choice import choose
from resumed_runs import log, read_facts
from titles import words

from callbacks.files.written_aside import written_aside
from commands import datasets

AGENTS = ("cloning", "td3_bc", "iql", "cql", "atac")


def read_sets(sources: Sequence[str], environment: str | None, deciles: bool, root: Path) -> list[Dataset]:
    """The datasets, each followed by its best tenth where that is asked for.

    Raises:
        ValueError: a source is missing, unreadable or holds bad data.
    """
    found: list[Dataset] = []
    for source in sources:
        found.append(read_dataset(source, environment, [dataset.name for dataset in found]))
        if deciles:
            best = root / "best" / f"{found[-1].facts['content_hash'][:8]}-best10.h5"
            if not best.exists():
                datasets.best(source, str(best), 0.1)
            found.append(read_dataset(str(best), environment, [dataset.name for dataset in found]))
    return found


def fill(
    cells: Sequence[Cell], content: dict[str, Any], results: Path, root: Path, chosen: Sequence[str] | None
) -> bool:
    """Train the cells one after the other and write what is known after each; whether all of them went well.

    Args:
        cells: the cells, set by set.
        content: content of the results so far, which grows.
        results: folder of table and pictures.
        root: folder of the runs.
        chosen: settings of the choice, where one is asked for; else None.
    """
    started, trained = time.monotonic(), 0
    waiting = sum(any(read_facts(folder)["status"] != "done" for folder, _ in cell.runs) for cell in cells)
    for place, cell in enumerate(cells, 1):
        begun = time.monotonic()
        known = all(read_facts(folder)["status"] == "done" for folder, _ in cell.runs)
        head = f"[{place}/{len(cells)}] {cell.title}"
        if not known:
            log(f"{head}: in {cell.folder}")
        result = train(cell, lambda text, head=head: log(f"{head}: {text}"))  # type: ignore[misc]
        content["cells"].append(result | {"seeds": cell.budget.seeds})
        write(content, results)
        if cell is cells[-1] or cells[place].dataset is not cell.dataset:
            if chosen is not None:
                log(f"{cell.dataset.name}: choosing among all policies without the environment")
                mine = [other for other in cells if other.dataset is cell.dataset]
                content["choices"][cell.dataset.name] = choose(mine, root, chosen)
                write(content, results)
            offline_results.draw(content, results)
        if known:
            log(f"{head}: known already")
            continue
        trained += 1
        left = (time.monotonic() - started) / trained * (waiting - trained) / 60
        told = result["status"] + (f" ({result['reason']})" if result["reason"] else "")
        log(f"{head}: {told} after {(time.monotonic() - begun) / 60:.1f} min; about {left:.0f} min for the others")
    return all(cell["status"] != "failed" for cell in content["cells"])


def write(content: dict[str, Any], results: Path) -> None:
    """The JSON and the Markdown; each file is replaced as a whole."""
    results.mkdir(parents=True, exist_ok=True)
    name = offline_results.file_name(content)
    with written_aside(results / f"{name}.json") as aside:
        aside.write_text(json.dumps(content, indent=1) + "\n")
    with written_aside(results / f"{name}.md") as aside:
        aside.write_text("\n".join(offline_results.markdown(content)) + "\n")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments; those after `--` as `extra`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", required=True, metavar="FILE")
    parser.add_argument("--agents", nargs="+", default=list(AGENTS), metavar="AGENT")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, help="most gradient updates of an agent; default: the preset's")
    parser.add_argument("--episodes", type=int, default=100, help="of each seed's last evaluation")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--deciles", action="store_true", help="add the best tenth of each set's episodes as a set")
    parser.add_argument(
        "--select",
        nargs="?",
        const="",
        metavar="TEXT",
        help="choose among all policies without the environment, too, with these settings of "
        "`reverie select`, as one text",
    )
    parser.add_argument("--environment", help="gymnasium id for sets that name none")
    parser.add_argument("--root", type=Path, default=Path("runs/offline_table"), help="folder of the runs")
    parser.add_argument("--results", type=Path, default=Path("runs/offline_table"), help="folder of table and pictures")
    parser.add_argument(
        "--title", type=words, default="", help="words that tell this table and its files from others in --results"
    )
    cut = list(argv).index("--") if "--" in argv else len(argv)
    options = parser.parse_args(argv[:cut])
    options.extra = tuple(argv[cut + 1 :])
    for name in ("seeds", "updates", "episodes", "threads"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return options


def main(argv: Sequence[str]) -> int:
    """Make the table; 1 if a cell failed, 2 after a mistake in the arguments."""
    options, root = parse(argv), None
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a training is ended in good order
    try:
        agents = [contestant(name) for name in options.agents]
        root = options.root.resolve()
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".lock", timeout=0):
            sets = read_sets(options.sets, options.environment, options.deciles, root)
            budget = Budget(options.seeds, options.updates, options.episodes, options.threads, options.extra)
            cells = [make_cell(dataset, agent, budget, root) for dataset in sets for agent in agents]
            names = {dataset.source: dataset.facts["source"] for dataset in sets}
            content = {
                "title": options.title,
                "command": shlex.join(
                    ["python", "benchmarks/offline_table.py", *(names.get(a, a) for a in shown(argv))]
                ),
                "date": datetime.date.today().isoformat(),
                "processor": processor(),
                "origin": origin(data={d.facts["set"]: d.facts["content_hash"] for d in sets}),
                "seeds": options.seeds,
                "updates": options.updates,
                "episodes": options.episodes,
                "threads": options.threads,
                "sets": [dataset.facts for dataset in sets],
                "cells": [],
                "choices": {},
            }
            good = fill(
                cells, content, options.results, root, None if options.select is None else shlex.split(options.select)
            )
    except Timeout:
        print(f"another table is made in {root}: wait until it ends, or choose another --root", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(offline_results.markdown(content)))
    return 0 if good else 1


def shown(argv: Sequence[str]) -> list[str]:
    """The arguments without those that name places on this machine."""
    kept, skip = [], False
    for argument in argv:
        skip = skip or argument in ("--root", "--results")
        if not skip:
            kept.append(argument)
        elif argument not in ("--root", "--results"):
            skip = False
    return kept


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
