"""Rows of tables and figures of what `learning_runs.py` measured, over seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from modules.functional.statistics import bootstrap_interval

Content = dict[str, Any]
"""Content of the file of a task."""


def contents(folder: Path, benchmark: str) -> dict[str, Content]:
    """By task, what was measured of a benchmark."""
    prefix = f"{benchmark}-"
    return {path.stem.removeprefix(prefix): json.loads(path.read_text()) for path in folder.glob(f"{prefix}*.json")}


def header(first: str) -> list[str]:
    """Head of a table whose rows `row_of` makes."""
    return [f"| {first} | environment steps | mean return | 95% interval | seeds | minutes |", "|---" * 6 + "|"]


def row_of(name: str, environment_steps: float, values: list[float], minutes: str) -> str:
    """One row of a table, with the figure of every seed."""
    low, high = bootstrap_interval(values)
    seeds = ", ".join(f"{v:.4g}" for v in values)
    count = f"{environment_steps:,.0f}" if environment_steps else ""
    return f"| {name} | {count} | {np.mean(values):.4g} | {low:.4g} .. {high:.4g} | {seeds} | {minutes} |"


def last(content: Content) -> list[float]:
    """Final return of every seed."""
    return [row["mean"] for run in content["runs"] for row in run["rows"] if row["kind"] == "last"]


def steps(content: Content) -> float:
    """Environment steps of a whole run."""
    return max(row["environment_steps"] for row in content["runs"][0]["rows"])


def minutes_of(content: Content) -> str:
    """Of every seed."""
    return " ".join(f"{run['minutes']:.1f}" for run in content["runs"])


def curve(run: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Environment steps and mean returns of a seed's regular evaluations."""
    rows = [row for row in run["rows"] if row["kind"] == "curve"]
    return np.array([row["environment_steps"] for row in rows]), np.array([row["mean"] for row in rows])


def first_above(run: dict[str, Any], goal: float) -> float | None:
    """Environment steps at a seed's first evaluation that reaches the goal."""
    x, y = curve(run)
    reached = x[y >= goal]
    return float(reached[0]) if len(reached) else None


def reached(content: Content, goal: float) -> str:
    """`first_above` of every seed."""
    found = [first_above(run, goal) for run in content["runs"]]
    return ", ".join("never" if steps is None else f"{steps:,.0f}" for steps in found)


def group_table(runs: dict[str, Content], goal: float, first: str = "agent") -> list[str]:
    """Runs of one task that differ in one thing, by what they are called, and when each seed reached the goal."""
    lines = header(first)
    lines += [row_of(label, steps(c), last(c), minutes_of(c)) for label, c in runs.items()]
    for label, content in runs.items():
        text = reached(content, goal)
        lines += ["", f"First evaluation at {goal:g} or above, {label}, by seed: {text} environment steps,"]
        lines += [f"`{content['command']} --seed_everything SEED`, {content['processor']}, one thread."]
    return lines


def figure(title: str, runs: dict[str, Content], goal: float) -> Figure:
    """Return against environment steps: mean over seeds, thin lines for the seeds."""
    made = Figure(figsize=(6.5, 4.0), layout="constrained")
    axes = made.subplots()
    for index, (label, content) in enumerate(runs.items()):
        plot_seeds(axes, [curve(run) for run in content["runs"]], f"C{index}", label)
    axes.axhline(goal, color="0.6", linewidth=1.0, linestyle="--", label=f"goal {goal:g}")
    axes.set(xlabel="environment steps", ylabel="mean return", title=title)
    axes.legend(frameon=False, fontsize=9)
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    return made


def plot_seeds(axes: Axes, curves: Sequence[tuple[np.ndarray, np.ndarray]], color: str, label: str) -> None:
    """A thin line for each seed, and a thick one for their mean, as far as all of them go."""
    for x, y in curves:
        axes.plot(x, y, color=color, linewidth=0.7, alpha=0.4)
    length = min(len(x) for x, _ in curves)
    mean = np.mean([y[:length] for _, y in curves], 0)
    axes.plot(curves[0][0][:length], mean, "o-", color=color, markersize=3, label=label)


def save(made: Figure, path: Path) -> None:
    """Write a figure."""
    FigureCanvasAgg(made)
    made.savefig(path, dpi=110)
