"""The table of what `mutate.py` found: how many small changes of formulas and losses the tests notice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mutation_targets import TARGETS


def tables(folder: Path) -> list[str]:
    """The section on mutation testing, from the records that are there."""
    paths = {name: folder / f"mutation-{name}.json" for name in TARGETS}
    records = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    if not records:
        return []
    lines = ["", "## Tests: mutants killed", ""]
    lines += [
        "One expression is changed at a time; a mutant is killed when one of the file's tests fails or hangs.",
        "Explained mutants survive but compute the same, or change only the words of a message: each has its reason in",
        "`mutation_explained.yaml`. The score is killed and explained ones together. Constants outside functions and",
        "tests of compiled code are left out.",
        "",
        "| file | functions | mutants | killed | explained | not noticed | killed, % | score, % | date |",
        "|---" * 9 + "|",
    ]
    lines += [row(f"`{r['file']}`", ", ".join(r["functions"]) or "all", [r], r["date"]) for r in records.values()]
    if missing := [f"`{TARGETS[name].file}`" for name in TARGETS if name not in records]:
        lines += ["", f"Not run: {', '.join(missing)}.", ""]
    else:
        lines += [row("together", "", list(records.values()), "")]
    tools = sorted({r["tool"] for r in records.values()})
    minutes = sum(r["seconds"] for r in records.values()) / 60
    return [*lines, "", f"`make mutate`: {', '.join(tools)}, one process, {minutes:.0f} minutes on a shared machine."]


def row(title: str, functions: str, records: Sequence[dict[str, Any]], date: str) -> str:
    """One line of the table: the sums of some records."""
    mutants, killed, explained = (sum(r[key] for r in records) for key in ("mutants", "killed", "explained"))
    return (
        f"| {title} | {functions} | {mutants} | {killed} | {explained} | {mutants - killed - explained} "
        f"| {100 * killed / mutants:.1f} | {100 * (killed + explained) / mutants:.1f} | {date} |"
    )
