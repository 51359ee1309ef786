"""Runs the command of a cell of evidence again, and says whether the new score lies in the old interval.

`reverie reproduce` is the command line of it. A run that was cut goes on where it was, in its folder below
`runs/reproduced`, as long as the code is at the same commit; one with changed files begins anew.
"""

from __future__ import annotations

import datetime
import difflib
import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evidence_cells import Cell, interval
from evidence_sources import read_cells
from measured_by import RESULTS, origin
from moe_results import SEEN
from offline_cells import seeds_of
from offline_results import iqm
from resumed_runs import finished, key_of, log, read_facts, read_rows

from datamodules.recorded.sources import content_hash

RUNS = Path("runs/reproduced")
REPRODUCED = RESULTS / "reproduced"
"""Folder of what came out, beside the results that it is compared with."""
ROUNDING = 1e-6
"""Share of a score by which it may be outside of an interval whose ends were written with so many digits."""


# ------------------------------------------------------------------------------------------------------- what there is
def find(name: str, cells: Sequence[Cell]) -> Cell:
    """The cell of a name.

    Raises:
        ValueError: there is none; the message has near names, the nearest first.
    """
    by_name = {cell.name: cell for cell in cells}
    if name in by_name:
        return by_name[name]
    inside = sorted((other for other in by_name if name in other), key=len)
    near = (inside or difflib.get_close_matches(name, by_name, n=5, cutoff=0.4))[:5]
    hint = f"did you mean {', '.join(near)}?" if near else "`reverie reproduce` lists them"
    raise ValueError(f"there is no cell {name}; {hint}")


def listed(cells: Sequence[Cell]) -> list[str]:
    """A line for each cell: name, minutes, score, and where it takes another command."""
    lines = []
    for cell in cells:
        middle, low, high = cell.middle()
        took = f"{cell.told['minutes']:7.1f} min" if cell.told["minutes"] else " " * 11
        told = f"{middle:.4g}" + (f" ({interval(low, high)})" if interval(low, high) else "")
        lines.append(f"{cell.name:<58} {took}  {len(cell.scores)} seeds  {told}{'' if reason(cell) is None else '  *'}")
    other = sum(reason(cell) is not None for cell in cells)
    return [*lines, "", f"{len(cells)} cells; * {other} of them by commands of their own, which their names tell"]


def reason(cell: Cell) -> str | None:
    """Why a cell cannot be run again by one command, as a sentence; None if it can."""
    if cell.command.startswith("git checkout"):
        return f"it was measured with code of another commit: {cell.command}"
    if cell.unit not in SCORES or not cell.command.startswith("reverie fit "):
        return f"a benchmark of its own measures it: {cell.command}"
    return None


# ------------------------------------------------------------------------------------------------------------- its runs
@dataclass(frozen=True)
class Run:
    """One `reverie fit`, and the seeds whose scores it gives."""

    folder: Path
    arguments: tuple[str, ...]
    seeds: tuple[int, ...]


def runs_of(cell: Cell, seeds: Sequence[int], datasets: Path | None, code: str) -> list[Run]:
    """The runs that give the scores of these seeds.

    Args:
        cell: the cell.
        seeds: some of its seeds.
        datasets: folder of the recorded data.
        code: text that is another one for other code.

    Raises:
        ValueError: a dataset is needed and not told, missing, or another one than was measured.
    """
    words = shlex.split(cell.command)[2:]
    if "--run_dir" in words:  # where the first measurement lay
        at = words.index("--run_dir")
        del words[at : at + 2]
    if "--data.source" in words:
        at = words.index("--data.source") + 1
        words[at] = found_data(words[at], cell, datasets)
    folder = RUNS / cell.name.replace("/", "--")
    if "SEED" in words:
        made = [([str(seed) if word == "SEED" else word for word in words], (seed,)) for seed in seeds]
    else:  # members of one run: each learns as it would alone
        at = words.index("--model.seeds") + 1
        words[at] = str(max(seeds) + 1)
        made = [(words, tuple(seeds))]
    return [Run((folder / f"{key_of(arguments, code)}").absolute(), tuple(arguments), mine) for arguments, mine in made]


def found_data(source: str, cell: Cell, datasets: Path | None) -> str:
    """The place of a cell's dataset.

    Raises:
        ValueError: as in `runs_of`.
    """
    name = Path(source).name
    path = Path(source)
    if not source.startswith("data/"):
        if datasets is None:
            raise ValueError(f"{cell.name} learns from {name}: tell its folder with --datasets FOLDER")
        path = datasets / name
        if not path.exists():
            raise ValueError(f"{cell.name} learns from {name}, which is not in {datasets}")
    wanted = cell.told["hashes"].get(cell.data[0]) if cell.data else None
    if wanted is not None and path.exists() and (found := content_hash(path)) != wanted:
        raise ValueError(f"{path} is not what {cell.name} learned from: its SHA-256 is {found}, that was {wanted}")
    return str(path)


# --------------------------------------------------------------------------------------------------------------- scores
def last_returns(folder: Path) -> list[float]:
    """Mean return of the last weights of every member of a run."""
    rows = [row for row in read_rows(folder / "evaluation.csv") if row["kind"] == "last"]
    return [row["mean"] for row in seeds_of(rows)]


def mean_of_games(folder: Path) -> list[float]:
    """Mean over both games of Catch, each in units of its own rewards."""
    from bench_popart_learning import games  # here, because it imports every part of an agent

    return [float(sum(games(folder)["games"]) / 2.0)]


def relative_error(folder: Path) -> list[float]:
    """Last held-out error of a regression."""
    found = [row[f"validation/{SEEN}"] for row in read_rows(max(folder.glob("metrics/version_*/metrics.csv")))]
    return [[value for value in found if isinstance(value, float)][-1]]


SCORES: dict[str, Callable[[Path], list[float]]] = {
    "return": last_returns,
    "share of the best return": mean_of_games,
    "relative error, less is better": relative_error,
}
"""Scores of the seeds of a run, by the unit of a cell."""


# ---------------------------------------------------------------------------------------------------------- one by one
def reproduce(name: str, seeds: Sequence[int], datasets: Path | None, results: Path = RESULTS) -> bool:
    """Run a cell again and tell how it compares; whether the new middle lies in the old interval.

    Args:
        name: name of the cell.
        seeds: some of its seeds, or none for all.
        datasets: folder of recorded data.
        results: folder of the results; a file below its `reproduced` is made, and no other one is touched.

    Raises:
        ValueError: there is no such cell or seed, it takes a command of its own, a dataset is missing or another one,
            or a run did not end well.
    """
    # What is to be run, and how long that takes.
    cell = find(name, read_cells(results))
    if (why := reason(cell)) is not None:
        raise ValueError(f"{name} is not run by this command: {why}")
    if unknown := set(seeds) - cell.scores.keys():
        raise ValueError(f"{name} has no seed {min(unknown)}: it has {', '.join(map(str, cell.scores))}")
    chosen = list(dict.fromkeys(seeds)) or list(cell.scores)
    about = origin()
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H%M%SZ")
    code = " ".join(about["commits"]) + (now if about["changed"] else "")
    runs = runs_of(cell, chosen, datasets, code)
    share = len(chosen) / len(cell.scores)
    took = f"{cell.told['minutes'] * share:.1f} minutes" if cell.told["minutes"] else "a time that nobody noted"
    print(f"{name}: {cell.title} on {cell.task}, seeds {', '.join(map(str, chosen))}")
    print(f"these took {took} on {cell.told['processor']}, with evaluations; now on {about['processor']}", flush=True)

    # The runs, one after the other.
    scores: dict[int, float] = {}
    for run in runs:
        log(shlex.join(["reverie", "fit", *run.arguments]))
        facts = finished(run.folder, run.arguments, 1, log)
        if facts["status"] != "done":
            raise ValueError(f"a run {facts['status']}: {facts['reason']}; see {run.folder / 'log.txt'}")
        members = SCORES[cell.unit](run.folder)
        scores |= {seed: members[seed if len(run.seeds) < len(members) else n] for n, seed in enumerate(run.seeds)}

    # What came out, beside what there was.
    minutes = sum(read_facts(run.folder)["seconds"] for run in runs) / 60.0
    content = compared(cell, scores) | {"minutes": round(minutes, 1), "origin": origin([run.folder for run in runs])}
    path = results / REPRODUCED.name / f"{cell.name.replace('/', '--')}-{now}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x") as file:
        file.write(json.dumps(content, indent=1) + "\n")
    print("\n".join(told(content)))
    print(f"written to {path}")
    return bool(content["within"])


def compared(cell: Cell, scores: Mapping[int, float]) -> dict[str, Any]:
    """New scores beside the old ones, and whether their middle lies in the old interval.

    An interval of one seed has no width: then the new score is to be the old one.
    """
    middle, low, high = cell.middle()
    if not interval(low, high):
        low = high = middle
    now = iqm([list(scores.values())])[0]
    slack = ROUNDING * max(abs(low), abs(high))
    return {
        "cell": cell.name,
        "unit": cell.unit,
        "command": re.sub(r"--run_dir \S+ ?", "", cell.command),
        "scores": {str(seed): score for seed, score in scores.items()},
        "before": {str(seed): cell.scores[seed] for seed in scores},
        "of_seeds": len(cell.scores),
        "middle": now,
        "interval": [low, high],
        "within": bool(low - slack <= now <= high + slack),
    }


def told(content: Mapping[str, Any]) -> list[str]:
    """The comparison, for people."""
    lines = [f"{'seed':>4} {'before':>12} {'now':>12} {'difference':>12}"]
    for seed, score in content["scores"].items():
        before = content["before"][seed]
        lines.append(f"{seed:>4} {before:>12.5g} {score:>12.5g} {score - before:>+12.3g}")
    low, high = content["interval"]
    word = "lies in" if content["within"] else "lies OUTSIDE of"
    number = len(content["scores"])
    over = "" if number == content["of_seeds"] else f" over {number} of {content['of_seeds']} seeds"
    kind = f"the old interval {low:.5g} .. {high:.5g}" if low != high else f"the old score {low:.5g}, without a width"
    return [*lines, f"the middle{over}, {content['middle']:.5g}, {word} {kind}; {content['minutes']:.1f} minutes"]
