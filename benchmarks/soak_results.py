"""Table and figure of what `soak.py` has watched: all that a run holds on to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from learning_tables import contents, save
from matplotlib.figure import Figure

ALLOWED = {"memory": 0.03, "files": 0.0, "threads": 0.0, "folder": 0.05}
"""By quantity, the share of its warm value by which it may rise until the run is over."""
NOISE = 1e-6
"""Share that counts as none."""
WARM = 0.2
"""Share of each start's looks that belong to its warm-up."""
QUANTITIES = {
    "memory": ("memory, MB", 1e6),
    "files": ("open files", 1.0),
    "threads": ("threads", 1.0),
    "folder": ("folder of the run, MB", 1e6),
    "database": ("MLflow's database, MB", 1e6),
}
"""By the key of a look: its name in tables, and its unit."""

ABOUT = (
    "Looks at a run every few seconds: `make soak`. Warm is the value after the first fifth of a start's looks, last",
    "that at its end, growth the slope between them by least squares, per 100,000 updates, and rise how much more the",
    "median of the last fifth of these looks is than that of the first. Memory may rise by 3%, open files and threads",
    "by nothing. The folder of a run takes a line per evaluation and may rise by 5%, MLflow's database takes a row for",
    "each point.",
)
"""Lines that say what the numbers are."""


def growth(looks: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """By quantity, of the longest start: its warm and last value, the slope per 100,000 updates, and the whole rise.

    Args:
        looks: lines of `looks.jsonl`.
    """
    starts = [[look for look in looks if look["start"] == start] for start in {look["start"] for look in looks}]
    longest = max(starts, key=len)
    warm = longest[min(int(np.ceil(WARM * len(longest))), len(longest) - 1) :]
    updates = np.array([look["updates"] for look in warm], float) / 1e5
    found = {}
    for name, (_, unit) in QUANTITIES.items():
        values = np.array([look[name] for look in warm], float) / unit
        slope = np.polyfit(updates, values, 1)[0] if len(set(updates)) > 1 else 0.0
        fifth = max(1, len(values) // 5)
        first, last = np.median(values[:fifth]), np.median(values[-fifth:])
        rise = last / first - 1 if first else 0.0
        found[name] = {
            "warm": float(values[0]),
            "last": float(values[-1]),
            "slope": float(slope),
            "rise": float(rise),
        }
    return found


def grown(growth: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Names of those quantities that have risen by more than is allowed, of `growth`."""
    return [QUANTITIES[name][0] for name, most in ALLOWED.items() if growth[name]["rise"] > most + NOISE]


def tables(folder: Path) -> list[str]:
    """The section on long runs, from the files that are there."""
    there = contents(folder, "soak")
    if not there:
        return []
    lines = ["", "## Runs for very long", "", *ABOUT, ""]
    lines += [
        "| run | updates | hours | quantity | warm | last | growth per 100,000 updates | rise |",
        "|---" * 8 + "|",
    ]
    for case, content in there.items():
        last = content["looks"][-1]
        for name, found in content["growth"].items():
            cells = [case, f"{last['updates']:,}", f"{last['seconds'] / 3600:.2f}", QUANTITIES[name][0]]
            cells += [
                f"{found['warm']:,.1f}",
                f"{found['last']:,.1f}",
                f"{found['slope']:+,.2f}",
                f"{found['rise']:+.1%}",
            ]
            lines += ["| " + " | ".join(cells) + " |"]
    return [*lines, *(f"\n![what a run of {case} holds](results/soak-{case}.png)" for case in there)]


def draw(folder: Path) -> None:
    """A PNG file for each run that is there: every quantity over updates."""
    for case, content in contents(folder, "soak").items():
        made = Figure(figsize=(6.5, 7.0), layout="constrained")
        rows, looks = made.subplots(len(QUANTITIES), sharex=True), content["looks"]
        for axes, (name, (label, unit)) in zip(rows, QUANTITIES.items(), strict=True):
            axes.plot([look["updates"] for look in looks], [look[name] / unit for look in looks], linewidth=1.0)
            axes.set(ylabel=label)
            axes.set_ylim(bottom=0.0)
        rows[-1].set(xlabel="updates")
        save(made, folder / f"soak-{case}.png")
