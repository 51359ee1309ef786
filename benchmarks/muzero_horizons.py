"""Steps of the data in targets of values by the age of the data: read from a run, and drawn for each kind of target."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from learning_tables import Content, save
from matplotlib.figure import Figure
from muzero_cells import CELLS
from resumed_runs import read_rows

from modules.functional.statistics import bootstrap_interval

FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "muzero_horizons.png"
PREFIX = "muzero/horizon_from_age/"
CAPTION = "![mean number of steps of the data in a value's target, by the age of the data](figures/muzero_horizons.png)"


def horizons(directory: Path) -> dict[str, float]:
    """Mean horizon over a run's logged updates, by the age that a group begins at; of the groups that it had.

    A run that went on from a checkpoint has logged some updates twice: the later ones count.
    """
    logs = sorted(directory.glob("metrics/version_*/metrics.csv"), key=lambda path: path.stat().st_mtime)
    found: dict[str, dict[float, float]] = {}
    for row in (row for log in logs for row in read_rows(log)):
        for name, value in row.items():
            if name.startswith(PREFIX) and isinstance(value, float):
                found.setdefault(name.removeprefix(PREFIX), {})[row["step"]] = value
    return {age: float(np.mean(list(found[age].values()))) for age in sorted(found, key=int)}


def by_target(found: Mapping[str, Content]) -> dict[str, list[dict[str, float]]]:
    """By title of the cells that compare targets, the horizons of each seed that has them."""
    seeds = {
        cell.title: [run["horizons"] for run in found[name]["runs"] if run.get("horizons")]
        for name, cell in CELLS.items()
        if name.startswith("target-") and name in found
    }
    return {title: runs for title, runs in seeds.items() if runs}


def draw(found: Mapping[str, Content], path: Path = FIGURE) -> None:
    """Mean horizon against age, over seeds, with its 95% interval; nothing where nothing was measured."""
    seeds = by_target(found)
    if not seeds:
        return
    made = Figure(figsize=(6.5, 4.0), layout="constrained")
    axes: Any = made.subplots()
    ages = sorted({age for runs in seeds.values() for run in runs for age in run}, key=int)
    for index, (title, runs) in enumerate(seeds.items()):
        mine = [age for age in ages if any(age in run for run in runs)]
        values = [[run[age] for run in runs if age in run] for age in mine]
        places = [ages.index(age) + 0.06 * index for age in mine]
        axes.plot(places, [np.mean(v) for v in values], "o-", color=f"C{index}", markersize=4, label=title)
        for place, (low, high) in zip(places, map(bootstrap_interval, values), strict=True):
            axes.plot([place, place], [low, high], color=f"C{index}", linewidth=1.0)
    ends = [*(int(age) for age in ages[1:]), None]
    labels = [f"{int(a):,} ..\n{b:,}" if b else f"{int(a):,} .." for a, b in zip(ages, ends, strict=True)]
    axes.set_xticks(range(len(ages)), labels, fontsize=8)
    axes.set(xlabel="age of the data, transitions", ylabel="steps of the data in a target", ylim=(0, None))
    axes.legend(frameon=False, fontsize=9)
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    save(made, path)
