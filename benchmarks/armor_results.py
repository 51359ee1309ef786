"""Table of what `bench_armor.py` measured: ARMOR, ATAC and cloning, and whether ARMOR falls below its reference."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from learning_tables import save
from matplotlib.figure import Figure
from offline_results import about, finish, intervals, iqm, middle, normalized

FILE, FIGURE = "armor.json", "armor.png"


def tables(folder: Path) -> list[str]:
    """The section, from the file that is there."""
    path = folder / FILE
    if not path.exists():
        return []
    content = json.loads(path.read_text())
    lines = ["", "## ARMOR", ""]
    lines += [
        f"Undiscounted return of the deterministic policy over {content['episodes']} episodes per seed, after the",
        f"last update: interquartile mean over {len(content['seeds'])} seeds (of fewer than four it is their mean) and",
        "its 95% bootstrap interval. The own reference of an agent is its policy at the end of its warm start;",
        "differences are paired by seed. What is told of the reference is by the interval of the difference, which",
        "lies above 0, below 0, or around it.",
        "",
        f"`{content['command']}`, on {content['processor']}, {content['threads']} thread"
        f"{'s' * (content['threads'] > 1)}, {content['date']}.",
    ]
    for facts in content["sets"]:
        cells = [cell for cell in content["cells"] if cell["set"] == facts["set"]]
        if not cells:  # a set whose turn has not come
            continue
        lines += ["", f"### ARMOR on {facts['set']}", "", *about(facts), "", *table(facts, cells)]
    return [*lines, "", f"![returns with their intervals, crosses for the own references](results/{FIGURE})"]


def draw(folder: Path) -> None:
    """A PNG file of what the agents return on each set, and of what they had cloned."""
    path = folder / FILE
    if not path.exists():
        return
    content = json.loads(path.read_text())
    made = Figure(figsize=(4.6 * len(content["sets"]), 3.6), layout="constrained")
    for axes, facts in zip(made.subplots(1, len(content["sets"]), squeeze=False).flat, content["sets"], strict=True):
        cells = [cell for cell in content["cells"] if cell["set"] == facts["set"] and cell.get("last")]
        intervals(axes, cells, {cell["agent"]: f"C{place}" for place, cell in enumerate(cells)})
        finish(axes, facts)
    save(made, folder / FIGURE)


def table(facts: dict[str, Any], cells: Sequence[dict[str, Any]]) -> list[str]:
    """One row per agent; one without figures says why below."""
    head = ["policy", "last", "95% interval", "normalised", "seeds", "own reference", "last less reference"]
    head += ["against its reference", "last less ATAC's", "updates", "minutes"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    notes = []
    plain = next((cell["last"] for cell in cells if cell["agent"] == "atac" and cell.get("last")), [])
    for cell in cells:
        if not cell.get("last"):
            lines.append(f"| {cell['agent']} | {cell['status']}" + " |" * (len(head) - 1))
            notes += ["", f"{cell['agent']} {cell['status']}: {cell['reason']}"] if cell["reason"] else []
            continue
        percent, others = normalized(facts, cell["last"]), plain if cell["agent"].startswith("armor") else []
        gained = apart(cell["last"], cell["cloned"])
        row = [cell["agent"], *middle(cell["last"]), "" if percent is None else f"{iqm([percent])[0]:.1f}"]
        row += [", ".join(f"{value:.0f}" for value in cell["last"]), middle(cell["cloned"])[0]]
        row += [difference(gained), verdict(gained), difference(apart(cell["last"], others))]
        row += [f"{cell['updates']['last']:,}", f"{cell['minutes']:.1f}"]
        lines.append("| " + " | ".join(row) + " |")
    return lines + notes


def apart(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Differences seed by seed; none where a seed has no partner."""
    return [a - b for a, b in zip(values, others, strict=True)] if len(values) == len(others) else []


def difference(values: Sequence[float]) -> str:
    """Interquartile mean of differences, with its interval where there are several."""
    if not values:
        return ""
    mean, low, high = iqm([values])
    return f"{mean:+.1f}" + (f" ({low:+.1f} .. {high:+.1f})" if math.isfinite(low) else "")


def verdict(gained: Sequence[float]) -> str:
    """Whether the interval of what was gained on the reference tells it from nothing."""
    if len(gained) < 2:
        return ""
    _, low, high = iqm([gained])
    return "above" if low > 0 else "falls below" if high < 0 else "not told apart"
