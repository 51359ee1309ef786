"""Tables of what `bench_dqra.py` measured: learning by the weight of the Bellman residual, over seeds.

The middle of the seeds is their interquartile mean (Agarwal et al. 2021, https://arxiv.org/abs/2108.13264), with a
percentile bootstrap interval; a change is the difference of two of them, whose seeds are drawn independently.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from learning_tables import Content, contents, curve, last, plot_seeds, save
from matplotlib.figure import Figure
from offline_results import RESAMPLES, iqm
from pages import made_anew

from modules.functional.aggregate_scores import interquartile_mean
from modules.functional.statistics import stratified_interval

FIGURE = "dqra.png"
PAGE = Path(__file__).parents[1] / "docs" / "dqra.md"
TITLES = {
    "a2c-catch": "A2C, Catch",
    "a2c-cartpole": "A2C, CartPole",
    "r2d2-tmaze": "R2D2, T-maze with a corridor of 10",
    "dreamer-catch": "DreamerV2, Catch",
    "td3_bc-pendulum": "TD3+BC, recorded Pendulum",
    "iql-pendulum": "IQL, recorded Pendulum",
}


def name_of(task: str, weight: float) -> str:
    """Name of the file of a task's runs with a weight."""
    return f"dqra-{task}-{weight:g}"


def change(without: Sequence[float], with_it: Sequence[float]) -> tuple[float, float, float]:
    """Interquartile mean with a residual less that without, and its 95% interval."""

    def difference(groups: Sequence[np.ndarray]) -> np.ndarray:
        return interquartile_mean(groups[1]) - interquartile_mean(groups[0])

    groups = [np.asarray(values, dtype=np.float64) for values in (without, with_it)]
    low, high = stratified_interval(groups, difference, resamples=RESAMPLES)
    return float(difference(groups)), float(low), float(high)


def over_the_run(content: Content) -> list[float]:
    """Mean of all regular evaluations of every seed."""
    return [float(np.mean(curve(run)[1])) for run in content["runs"]]


def compared_tasks(folder: Path) -> dict[str, dict[float, Content]]:
    """By title and weight, the tasks that have figures of two seeds or more with and without a residual."""
    found: dict[str, dict[float, Content]] = {}
    for name, content in contents(folder, "dqra").items():
        task, _, weight = name.rpartition("-")
        if len(content["runs"]) > 1:
            found.setdefault(task, {})[float(weight)] = content
    return {title: found[task] for task, title in TITLES.items() if {0.0} < found.get(task, {}).keys()}


def ablation(folder: Path) -> list[str]:
    """Both tables of the compared tasks."""
    compared = compared_tasks(folder)
    if not compared:
        return []
    weights = sorted({weight for runs in compared.values() for weight in runs})
    lines = []
    for title, values in (
        ("Return of the last weights over 100 episodes", last),
        ("Mean return of all regular evaluations, which is higher where learning is faster", over_the_run),
    ):
        lines += ["", f"{title}: interquartile mean over seeds, its 95% interval, and the change by the residual.", ""]
        lines += [
            "task | seeds | " + " | ".join(f"$w = {w:g}$" for w in weights) + " | change, and its 95% interval | it",
            " | ".join(["---"] * (len(weights) + 4)),
        ]
        lines += [row(task, runs, weights, values) for task, runs in compared.items()]
    lines += ["", "Commands, for each seed with `--seed_everything SEED`, one thread, runs shorter than the presets':"]
    commands = [f"`{content['command']}`" for runs in compared.values() for content in runs.values()]
    return [*lines, "; ".join(commands) + "."]


def row(title: str, runs: dict[float, Content], weights: list[float], values: Callable[[Content], list[float]]) -> str:
    """One task; the change is that by the largest weight."""
    by_weight = {weight: values(content) for weight, content in sorted(runs.items())}
    cells = []
    for weight in weights:
        if weight in by_weight:
            centre, low, high = iqm([by_weight[weight]])
            cells.append(f"{centre:.4g} ({low:.4g} .. {high:.4g})")
        else:
            cells.append("")
    difference, low, high = change(by_weight[0.0], by_weight[max(by_weight)])
    verdict = "helps" if low > 0.0 else "harms" if high < 0.0 else "makes no difference that can be told"
    seeds = "/".join(dict.fromkeys(str(len(found)) for found in by_weight.values()))
    cells += [f"{difference:+.3g} ({low:+.3g} .. {high:+.3g})", verdict]
    return f"{title} | {seeds} | " + " | ".join(cells)


def tables(folder: Path) -> list[str]:
    """The section on Bellman residuals, from the files that are there."""
    lines = ablation(folder)
    picture = ["", f"![returns while learning, with and without a residual](results/{FIGURE})"]
    return ["", "## Bellman residuals", *lines, *picture] if lines else []


def points(run: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, str]:
    """Thousands of steps, or of updates where data are recorded, returns of a seed's evaluations, and the unit."""
    steps, returns = curve(run)
    if steps.any():
        return steps / 1000, returns, "steps"
    return np.array([row["updates"] for row in run["rows"] if row["kind"] == "curve"]) / 1000, returns, "updates"


def draw(folder: Path) -> None:
    """A PNG file of the curves of every compared task: thin lines for the seeds, thick ones for their means."""
    compared = compared_tasks(folder)
    if not compared:
        return
    rows = -(-len(compared) // 3)
    made = Figure(figsize=(13.0, 3.2 * rows), layout="constrained")
    grid = list(made.subplots(rows, 3, squeeze=False).flat)
    for axes, (title, runs) in zip(grid, compared.items(), strict=False):
        for index, (weight, content) in enumerate(sorted(runs.items())):
            found = [points(run) for run in content["runs"]]
            plot_seeds(axes, [(x, y) for x, y, _ in found], f"C{index}", f"$w = {weight:g}$")
            axes.set(xlabel=f"thousand {found[0][2]}", ylabel="mean return")
        axes.set_title(title, fontsize=10)
        axes.legend(frameon=False, fontsize=8)
        axes.grid(alpha=0.2)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(compared) :]:
        axes.axis("off")
    save(made, folder / FIGURE)


def page(folder: Path) -> str:
    """The page of the documentation with its tables made anew."""
    return made_anew(PAGE.read_text(), ablation(folder))
