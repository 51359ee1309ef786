"""Table and pictures of what `offline_table.py` measured: returns by agent and dataset, over seeds.

The middle of several seeds is their interquartile mean, with a percentile bootstrap interval over the seeds; over all
datasets, seeds are drawn anew within each of them (Agarwal et al. 2021, https://arxiv.org/abs/2108.13264).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from learning_tables import save
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from titles import titled

from modules.functional.aggregate_scores import pooled_interquartile_mean
from modules.functional.statistics import stratified_interval

Content = dict[str, Any]
"""Content of `offline-table.json`."""

NAME = "offline-table"
RESAMPLES = 2000


# ----------------------------------------------------------------------------------------------------------- statistics
def iqm(groups: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Interquartile mean over all values, and its 95% interval by draws within each group.

    Args:
        groups: values of each group, at least one; groups of one value give no interval, which is NaN.
    """
    arrays = [np.asarray(group, dtype=np.float64) for group in groups]
    middle = float(pooled_interquartile_mean(arrays))
    if min(map(len, arrays)) < 2:
        return middle, float("nan"), float("nan")
    low, high = stratified_interval(arrays, pooled_interquartile_mean, resamples=RESAMPLES)
    return middle, float(low), float(high)


def normalized(facts: dict[str, Any], values: Sequence[float]) -> list[float] | None:
    """Returns in percent between the references of a dataset; None where it has none."""
    low, high = facts["references"]
    return None if low is None or high is None else [100.0 * (value - low) / (high - low) for value in values]


# --------------------------------------------------------------------------------------------------------------- tables
def tables(folder: Path) -> list[str]:
    """The sections on offline learning, one of each file that is there."""
    paths = sorted(folder.glob(f"{NAME}*.json"), key=lambda path: path.stem)
    return [line for path in paths for line in ("", *markdown(json.loads(path.read_text()), "results/"))]


def file_name(content: Content) -> str:
    """How the names of a table's files begin."""
    return titled(NAME, content["title"])


def markdown(content: Content, pictures: str = "") -> list[str]:
    """The lines of the table, a part for each dataset.

    Args:
        content: what was measured.
        pictures: path of the folder of the pictures, with a slash.
    """
    seeds = content["seeds"]
    lines = ["## " + ", ".join(filter(None, ["Offline learning", content["title"]])), ""]
    name = file_name(content)
    lines += [
        f"Undiscounted return of the deterministic policy over {content['episodes']} episodes per seed: interquartile",
        f"mean over {seeds} seeds (of fewer than four it is their mean) and its 95% bootstrap interval, `last` of the",
        "last weights, `best` of the checkpoint with the best return in regular evaluations, which has seen the",
        "environment. `cloned` is the agent's own policy at the end of its warm start, and `kept` what each seed keeps",
        "by the recorded data alone: its last policy where that is surely better than the cloned one, else that one.",
        "Minutes are of all seeds, with evaluations, and upper bounds where other work shared the machine.",
        "",
        f"`{content['command']}`, on {content['processor']}, {content['threads']} thread"
        f"{'s' * (content['threads'] > 1)}, {content['date']}.",
    ]
    for facts in content["sets"]:
        lines += ["", f"### {facts['set']}", "", *about(facts), ""]
        choice = content.get("choices", {}).get(facts["set"])
        lines += table(facts, [cell for cell in content["cells"] if cell["set"] == facts["set"]], choice)
        lines += [] if choice is None else ["", told(choice)]
    lines += over_sets(content)
    if not played_sets(content):
        return lines
    lines += ["", f"![learning curves]({pictures}{name}-curves.png)"]
    return [*lines, "", f"![returns with their intervals]({pictures}{name}-intervals.png)"]


def played_sets(content: Content) -> list[dict[str, Any]]:
    """The datasets of an environment, in which agents are played."""
    return [facts for facts in content["sets"] if facts["environment"]]


def about(facts: dict[str, Any]) -> list[str]:
    """A sentence or two about a dataset."""
    played = f"recorded in {facts['environment']}" if facts["environment"] else "of no environment: nothing is played"
    behind = "" if facts["normalized"] is None else f" ({facts['normalized'][0]:.1f})"
    best = "" if facts["normalized"] is None else f" ({facts['normalized'][1]:.1f})"
    scale = f" Normalised: {facts['yardstick']}." if facts["normalized"] is not None else ""
    return [
        f"{facts['episodes']:,} episodes, {facts['transitions']:,} transitions, {played}; mean return of the data "
        f"{facts['mean']:.1f}{behind}, of their best tenth of episodes {facts['best_decile']:.1f}{best}.{scale}"
    ]


def told(choice: dict[str, Any]) -> str:
    """A sentence about the choice without the environment."""
    if "agent" not in choice:
        return f"No choice without the environment: {choice['reason']}"
    who = " ".join(filter(None, (choice["agent"], choice["member"], "as it was cloned" * choice.get("cloned", False))))
    worth = "" if choice["return"] is None else f", whose return is {choice['return']:.1f}"
    why = "the safe one, as no other is surely better" if choice["fell_back"] else "the highest lower bound"
    return f"Chosen by the data alone, without the environment: {who}{worth} ({why})."


def table(facts: dict[str, Any], cells: Sequence[dict[str, Any]], choice: dict[str, Any] | None = None) -> list[str]:
    """One row per agent, with its fitted value where there was a choice; one without figures says why below."""
    played = facts["environment"] is not None
    head = ["last", "95% interval", "normalised", "seeds", "best", "95% interval", "cloned"] if played else []
    losses = list(dict.fromkeys(name for cell in cells for name in cell.get("held_out", {})))
    head = ["agent", *head, "updates", *(f"held-out {name.replace('_', ' ')}" for name in losses)]
    values = {} if choice is None else choice.get("values", {})
    kept = {} if choice is None else choice.get("kept", {})
    head += ["kept"] if kept else []
    head += [*(["fitted value"] if values else []), "minutes"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    notes = []
    for cell in cells:
        if cell["status"] != "done":
            lines.append(f"| {cell['agent']} | {cell['status']}" + " |" * (len(head) - 1))
            notes += ["", f"{cell['agent']} {cell['status']}: {cell['reason']}"]
            continue
        row = [cell["agent"], *(returns(facts, cell) if played else [])]
        row.append(f"{cell['updates']['last']:,}")
        row += [f"{cell['held_out'][name]:.3g}" if name in cell["held_out"] else "" for name in losses]
        row += [", ".join(f"{value:.0f}" for value in kept.get(cell["agent"], []))] if kept else []
        row += ([f"{values[cell['agent']]:.4g}" if cell["agent"] in values else ""] if values else []) + [
            f"{cell['minutes']:.1f}"
        ]
        lines.append("| " + " | ".join(row) + " |")
        missing = f"{len(cell['last'])} seeds are in the row of {cell['agent']}: the others diverged"
        notes += ["", missing] if played and len(cell["last"]) < cell["seeds"] else []
    return lines + notes


def returns(facts: dict[str, Any], cell: dict[str, Any]) -> list[str]:
    """The cells of a row with returns: last, best and cloned."""
    percent = normalized(facts, cell["last"])
    cloned = f"{iqm([cell['cloned']])[0]:.1f} (at {cell['updates']['cloned']:,})" if cell["cloned"] else ""
    return [
        *middle(cell["last"]),
        "" if percent is None or not percent else f"{iqm([percent])[0]:.1f}",
        ", ".join(f"{value:.0f}" for value in cell["last"]),
        *middle(cell["best"]),
        cloned,
    ]


def middle(values: Sequence[float]) -> list[str]:
    """Interquartile mean and interval as text; empty where there are no values."""
    if not values:
        return ["", ""]
    mean, low, high = iqm([values])
    return [f"{mean:.1f}", f"{low:.1f} .. {high:.1f}" if np.isfinite(low) else ""]


def over_sets(content: Content) -> list[str]:
    """The table over all datasets with references, of the agents that have figures on each of them."""
    sets = [facts for facts in content["sets"] if facts["environment"] and facts["normalized"] is not None]
    if len(sets) < 2:
        return []
    lines = ["", f"### All {len(sets)} datasets with references", ""]
    lines += ["Normalised returns, interquartile mean over datasets and seeds.", ""]
    lines += ["| policy | last | 95% interval | best | 95% interval | minutes |", "|---" * 6 + "|"]
    lines.append(f"| the data | {np.mean([facts['normalized'][0] for facts in sets]):.1f} | | | | |")
    lines.append(f"| their best tenth | {np.mean([facts['normalized'][1] for facts in sets]):.1f} | | | | |")
    for agent in dict.fromkeys(cell["agent"] for cell in content["cells"]):
        mine = {cell["set"]: cell for cell in content["cells"] if cell["agent"] == agent and cell.get("last")}
        if any(facts["set"] not in mine for facts in sets):
            continue
        row = [agent]
        for kind in ("last", "best"):
            groups = [normalized(facts, mine[facts["set"]][kind]) or [] for facts in sets]
            mean, low, high = iqm(groups) if all(groups) else (float("nan"),) * 3
            row += [f"{mean:.1f}", f"{low:.1f} .. {high:.1f}" if np.isfinite(low) else ""]
        minutes = sum(mine[facts["set"]]["minutes"] for facts in sets)
        lines.append("| " + " | ".join([*row, f"{minutes:.1f}"]) + " |")
    return lines


# ------------------------------------------------------------------------------------------------------------- pictures
def draw(content: Content, folder: Path) -> None:
    """Both pictures, and the curves as CSV files below `folder`; nothing where nothing is played."""
    played = played_sets(content)
    if not played:
        return
    agents = list(dict.fromkeys(cell["agent"] for cell in content["cells"]))
    colors = {agent: f"C{index % 10}" for index, agent in enumerate(agents)}
    columns, rows = min(3, len(played)), -(-len(played) // 3)
    for kind, panel in (("curves", curves), ("intervals", intervals)):
        made = Figure(figsize=(4.4 * columns, 3.4 * rows), layout="constrained")
        grid = list(made.subplots(rows, columns, squeeze=False).flat)
        for axes in grid[len(played) :]:
            axes.axis("off")
        for facts, axes in zip(played, grid, strict=False):
            cells = [cell for cell in content["cells"] if cell["set"] == facts["set"] and cell.get("last")]
            panel(axes, cells, colors)
            finish(axes, facts)
        save(made, folder / f"{file_name(content)}-{kind}.png")
    write_curves(content, folder / f"{file_name(content)}-curves.csv")


def curves(axes: Axes, cells: Sequence[dict[str, Any]], colors: dict[str, str]) -> None:
    """Mean return over the seeds at regular evaluations, with thin lines for the seeds."""
    for cell in cells:
        moments = [updates for updates, _ in cell["curve"]]
        values = [seeds for _, seeds in cell["curve"]]
        for seed in range(min(map(len, values), default=0)):
            axes.plot(moments, [row[seed] for row in values], color=colors[cell["agent"]], linewidth=0.6, alpha=0.35)
        axes.plot(moments, [np.mean(row) for row in values], color=colors[cell["agent"]], label=cell["agent"])
    axes.set(xlabel="updates", ylabel="mean return")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter("{x:,.0f}")


def intervals(axes: Axes, cells: Sequence[dict[str, Any]], colors: dict[str, str]) -> None:
    """Interquartile means and intervals by agent: last full, best hollow, the cloned policy as a cross."""
    for place, cell in enumerate(cells):
        for kind, shift, fill in (("last", -0.12, True), ("best", 0.12, False)):
            if not cell[kind]:
                continue
            mean, low, high = iqm([cell[kind]])
            color = colors[cell["agent"]]
            if np.isfinite(low):
                axes.plot([place + shift] * 2, [low, high], color=color, linewidth=1.5)
            axes.plot(place + shift, mean, "o", color=color, markerfacecolor=color if fill else "white")
        if cell["cloned"]:
            axes.plot(place, iqm([cell["cloned"]])[0], "x", color="0.3")
    axes.set_xticks(range(len(cells)), [cell["agent"] for cell in cells], rotation=30, ha="right", fontsize=8)
    axes.set(ylabel="return: last (full), best (hollow)")
    axes.margins(x=0.15)


def finish(axes: Axes, facts: dict[str, Any]) -> None:
    """Lines of the data, and the looks of a panel."""
    axes.axhline(facts["mean"], color="0.5", linestyle="--", linewidth=1.0, label="mean of the data")
    axes.axhline(facts["best_decile"], color="0.5", linestyle=":", linewidth=1.0, label="their best tenth")
    axes.set_title(facts["set"], fontsize=10)
    axes.legend(frameon=False, fontsize=7)
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)


def write_curves(content: Content, path: Path) -> None:
    """Returns of every seed at every regular evaluation."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["set", "agent", "updates", "seed", "mean_return"])
        for cell in content["cells"]:
            for updates, values in cell.get("curve", []):
                for seed, value in enumerate(values):
                    writer.writerow([cell["set"], cell["agent"], updates, seed, value])
