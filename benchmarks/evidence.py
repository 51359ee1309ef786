"""Writes docs/evidence.md, the rows of evidence in README.md, and the marked numbers of every document.

    python benchmarks/evidence.py

All of it comes from the files in `results/`; nothing is typed by hand. A test makes it anew and fails where a page says
another number than the file that it names.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from code_tags import changes_since, is_declared_older
from evidence_cells import UNKNOWN, Cell, interval, number
from evidence_sources import read_cells
from marked_numbers import documents, renewed
from measured_by import RESULTS, ROOT
from pages import made_anew

PAGE = ROOT / "docs" / "evidence.md"
README = ROOT / "README.md"
ADDED = ROOT / "benchmarks" / "results_added.json"
"""By results file, the commit that added its newest figures, for files that record no commit."""

TELLING = (
    "offline-table-weighted-with-a-game/hopper-medium/atac",
    "dreamer-pendulum",
    "r2d2-tmaze-10",
    "popart-two-catch",
    "muzero-point-mass",
)
"""Cells of README.md: one for each way of learning, one below its peer and one that missed its goal among them."""

Again = dict[str, Any]
"""Content of a file in `results/reproduced`."""

TITLES = {
    "armor": "ARMOR and those beside it",
    "dqra": "Bellman residuals",
    "dreamer": "DreamerV2 and DreamerV3",
    "learning": "ATAC, and permuted rewards as the control",
    "merlin": "MERLIN",
    "moe": "Mixtures of experts",
    "muzero": "MuZero and EfficientZero",
    "offline": "Offline learning",
    "popart": "A2C and PopArt",
    "r2d2": "R2D2",
    "sac": "SAC",
    "select": "Choosing by recorded data",
    "simple": "SimPLe, and PPO beside it",
    "two_timescale": "Memories on two timescales",
}
"""Headings by the first word of a results file."""


# ----------------------------------------------------------------------------------------------------- docs/evidence.md
def page(cells: Sequence[Cell], added: Mapping[str, Mapping[str, str]], again: Sequence[Again] = ()) -> list[str]:
    """The made part of docs/evidence.md.

    Args:
        cells: all cells.
        added: content of `results_added.json`.
        again: what `reverie reproduce` wrote.
    """
    by_kind: dict[str, list[Cell]] = {}
    for cell in cells:
        by_kind.setdefault(re.split("[-/]", cell.name)[0].removesuffix(".json"), []).append(cell)
    reached = [goal for cell in cells for goal in cell.goals]
    missed = [cell for cell in cells for goal in cell.goals if "missed" in goal.told(list(cell.scores.values()))]
    lines = [
        "",
        f"{len(cells)} cells, {sum(len(cell.scores) for cell in cells)} trained seeds, {len(reached)} goals, of which",
        f"{len(missed)} are missed, by controls and ablations too. {sum(not cell.origins() for cell in cells)} cells "
        "were measured before commits were recorded with them.",
    ]
    for kind in sorted(by_kind, key=lambda kind: TITLES.get(kind, kind).lower()):
        lines += ["", f"### {TITLES.get(kind, kind)}", "", *results_table(by_kind[kind])]
        lines += ["", *origin_table(by_kind[kind], added), "", "```sh"]
        lines += [line for cell in by_kind[kind] for line in (f"# {cell.name}", cell.command)]
        lines += ["```"]
    return [*lines, *reproduced_table(again)]


def reproduced_table(again: Sequence[Again]) -> list[str]:
    """Cells that were run again, with their old scores beside the new ones."""
    if not again:
        return []
    head = "Cell | Seeds | Before | Again | Middle | Old interval | In it | Commit | Processor"
    lines = ["", "### Reproduced", "", head, " | ".join(["---"] * 9)]
    for one in again:
        origin = one["origin"]
        commits = ", ".join(commit[:7] for commit in origin["commits"]) or UNKNOWN
        row = [f"`{one['cell']}`", f"{', '.join(one['scores'])} of {one['of_seeds']}"]
        row += [", ".join(f"{value:.4g}" for value in one[kind].values()) for kind in ("before", "scores")]
        row += [f"{one['middle']:.4g}", interval(*one["interval"]), "yes" if one["within"] else "**no**"]
        row += [commits + ", with changes" * origin["changed"], origin["processor"]]
        lines.append(" | ".join(row))
    return lines


def results_table(cells: Sequence[Cell]) -> list[str]:
    """Scores of cells, with goals and references in the same row."""
    head = "Cell | Task | Algorithm | Seeds | Scores | IQM | 95% interval | Goal | Beside it"
    lines = [head, " | ".join(["---"] * 9)]
    for cell in cells:
        middle, low, high = cell.middle()
        unit = "" if cell.unit == "return" else f" ({cell.unit})"
        row = [f"`{cell.name}`", cell.task, cell.title, ", ".join(map(str, cell.scores))]
        row += [", ".join(f"{score:.4g}" for score in cell.scores.values()) + unit, f"{middle:.4g}"]
        row += [interval(low, high) or "one seed", told_goals(cell) or "none", beside(cell) or "nothing"]
        lines.append(" | ".join(row))
    return lines


def told_goals(cell: Cell) -> str:
    """The goals of a cell, and whether they are reached."""
    return "; ".join(goal.told(list(cell.scores.values())) for goal in cell.goals)


def beside(cell: Cell) -> str:
    """Peers and references of a cell."""
    return "; ".join(f"{name}: {number(value)}" for name, value in (cell.beside or {}).items())


def origin_table(cells: Sequence[Cell], added: Mapping[str, Mapping[str, str]]) -> list[str]:
    """How cells were measured, as far as their files say."""
    head = "Cell | Measured | Commit | Code | Processor | Versions | Minutes | Data, SHA-256"
    lines = [head, " | ".join(["---"] * 8)]
    for cell in cells:
        told = cell.told
        when = " to ".join(dict.fromkeys((told["dates"][0], told["dates"][-1]))) if told["dates"] else UNKNOWN
        row = [f"`{cell.name}`", when, commit(cell, added), code(cell), told["processor"], versions(cell)]
        row += [f"{told['minutes']:.1f}" if told["minutes"] else UNKNOWN, data(cell)]
        lines.append(" | ".join(row))
    return lines


def commit(cell: Cell, added: Mapping[str, Mapping[str, str]]) -> str:
    """The commits that measured a cell; else that of its command, else the one that added its file."""
    commits = dict.fromkeys(commit[:7] for told in cell.origins() for commit in told["commits"])
    changed = ", with changes" if any(told["changed"] for told in cell.origins()) else ""
    if commits:
        return f"measured at {', '.join(commits)}{changed}"
    named = re.match(r"git checkout (\w+)", cell.command)
    if named:
        return f"measured at {named[1]}, by its command"
    found = added.get(cell.file)
    return f"{UNKNOWN}; file added by {found['commit']}" if found else UNKNOWN


def code(cell: Cell) -> str:
    """The tag of the code that a cell was measured with, and what has changed since."""
    later = changes_since(cell.algorithm, cell.tag())
    recorded = "" if cell.origins() else f", {UNKNOWN}"
    return f"tag {cell.tag()}{recorded}" + "".join(f"; older than tag {tag.number}: {tag.change}" for tag in later)


def versions(cell: Cell) -> str:
    """Versions of torch and of the library of environments that a cell was measured with."""
    found = dict.fromkeys(
        f"torch {told['versions'].get('torch', '?')}, gymnasium {told['versions'].get('gymnasium', '?')}"
        for told in cell.origins()
    )
    return "; ".join(found) or UNKNOWN


def data(cell: Cell) -> str:
    """Datasets of a cell with their hashes."""
    found = [f"{name}: {cell.told['hashes'].get(name, UNKNOWN)}" for name in cell.data]
    return "; ".join(found) or "none"


# --------------------------------------------------------------------------------------------------------------- README
def readme_rows(cells: Sequence[Cell]) -> list[str]:
    """The most telling rows.

    Raises:
        ValueError: one of them is no cell any more.
    """
    by_name = {cell.name: cell for cell in cells}
    if gone := [name for name in TELLING if name not in by_name]:
        raise ValueError(f"README.md shows {gone[0]}, which is no cell: change TELLING in {Path(__file__).name}")
    lines = ["", "Task | Algorithm | IQM | Seeds | 95% interval | Goal | Beside it", " | ".join(["---"] * 7)]
    for name in TELLING:
        cell = by_name[name]
        middle, low, high = cell.middle()
        unit = "" if cell.unit == "return" else f" ({cell.unit})"
        row = [cell.task, cell.title, f"{middle:.4g}{unit}", str(len(cell.scores)), interval(low, high) or "one seed"]
        lines.append(" | ".join([*row, told_goals(cell) or "none", beside(cell)]))
    return lines


# -------------------------------------------------------------------------------------------------------------- checked
def too_old(cells: Sequence[Cell]) -> list[str]:
    """Results files that are older than the code that they measure, and of which no tag of the code says so."""
    old = {cell.file: changes_since(cell.algorithm, cell.tag()) for cell in cells}
    return [
        f"{file} is older than this change of {changes[-1].since}: {changes[-1].change}"
        for file, changes in old.items()
        if not is_declared_older(file, changes)
    ]


def documents_made(results: Path = RESULTS) -> dict[Path, str]:
    """The text of every document with what is made of results made anew.

    Raises:
        ValueError: a document marks a number that no results file has.
    """
    cells = read_cells(results)
    made = {path: path.read_text() for path in documents()}
    again = [json.loads(path.read_text()) for path in sorted((results / "reproduced").glob("*.json"))]
    made[PAGE] = made_anew(made[PAGE], page(cells, json.loads(ADDED.read_text()), again), "evidence")
    made[README] = made_anew(made[README], readme_rows(cells), "evidence")
    return {path: renewed(text, results, path.name) for path, text in made.items()}


def note_commits(cells: Sequence[Cell]) -> None:
    """Note by which commit each file without a recorded one was added, where the whole history is there."""
    known = json.loads(ADDED.read_text()) if ADDED.exists() else {}
    whole = git("rev-parse", "--is-shallow-repository") == ["false"]  # a shallow one adds all files by one commit
    found = {}
    for file in dict.fromkeys(cell.file for cell in cells if not cell.origins()):
        told = git("log", "-1", "--format=%h %as", "--", f"benchmarks/results/{file}") if whole else []
        if told:
            found[file] = {"commit": told[0], "date": told[1]}
        elif file in known:
            found[file] = known[file]
    ADDED.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


def git(*arguments: str) -> list[str]:
    """Words that git prints in the repository; none where there is none."""
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True).stdout.split()


def main() -> None:
    """Write all of it, and say which pages changed."""
    note_commits(read_cells(RESULTS))
    for path, text in documents_made().items():
        if path.read_text() != text:
            path.write_text(text)
            print(f"{path.relative_to(ROOT)} made anew")
    for line in too_old(read_cells(RESULTS)):
        print(line)


if __name__ == "__main__":
    main()
