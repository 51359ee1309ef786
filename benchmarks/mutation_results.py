"""The table of what `mutate.py` found: how many small changes of formulas and losses the tests notice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from mutation_targets import TARGETS, fingerprint

EXPLAINED = Path(__file__).with_name("mutation_explained.yaml")


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
        "`mutation_explained.yaml`. The score is killed and explained ones together. Left out are constants outside",
        "functions, functions under a decorator, and tests of compiled code. Where the date has a star, code or tests",
        "have changed since: the next `make mutate` runs these files anew.",
        "",
        "| file | functions | mutants | killed | explained | not noticed | killed, % | score, % | date |",
        "|---" * 9 + "|",
    ]
    for name, r in records.items():
        changed = "*" if r["digest"] != fingerprint(TARGETS[name]) else ""
        lines.append(row(f"`{r['file']}`", ", ".join(r["functions"]) or "all", {name: r}, r["date"] + changed))
    lines += [row("together", "", records, "")]
    if missing := [f"`{TARGETS[name].file}`" for name in TARGETS if name not in records]:
        lines += ["", f"Not run: {', '.join(missing)}."]
    tools = sorted({r["tool"] for r in records.values()})
    minutes = sum(r["seconds"] for r in records.values()) / 60
    return [*lines, "", f"`make mutate`: {', '.join(tools)}, one process, {minutes:.0f} minutes on a shared machine."]


def row(title: str, functions: str, records: dict[str, dict[str, Any]], date: str) -> str:
    """One line of the table: the sums of some records."""
    mutants, killed = (sum(r[key] for r in records.values()) for key in ("mutants", "killed"))
    open_ones = sum(len(unexplained(name, r["survivors"], stale=False)) for name, r in records.items())
    return (
        f"| {title} | {functions} | {mutants} | {killed} | {mutants - killed - open_ones} | {open_ones} "
        f"| {100 * killed / mutants:.1f} | {100 * (1 - open_ones / mutants):.1f} | {date} |"
    )


def unexplained(name: str, survivors: list[dict[str, Any]], stale: bool = True) -> list[str]:
    """The changes of a target's survivors that no explanation is of, a line each.

    Args:
        name: of the target.
        survivors: of its record.
        stale: name explanations too that are of no survivor.
    """
    reasons = (yaml.safe_load(EXPLAINED.read_text()) or {}).get(name, [])
    lines = []
    for survivor in survivors:
        if not any(explains(reason, survivor) for reason in reasons):
            lines.append(f"{survivor['result']} in {survivor['function']}: {' '.join(survivor['change'])}")
    for reason in reasons:
        if stale and not any(explains(reason, survivor) for survivor in survivors):
            lines.append(f"no survivor is explained by {EXPLAINED.name}, {reason['to'][0]}: take it out")
    return lines


def explains(reason: dict[str, Any], survivor: dict[str, Any]) -> bool:
    """Whether an explanation is of this survivor: the same function, and what its line becomes."""
    lines = [line.removeprefix("+ ") for line in survivor["change"] if line.startswith("+ ")]
    lines = lines or [f"without {line.removeprefix('- ')}" for line in survivor["change"]]
    return reason["function"] == survivor["function"] and any(line in reason["to"] for line in lines)
