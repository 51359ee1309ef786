"""Picture of a sweep: scores over its trials, how much each key decides, and scores over the values of each key."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from callbacks.evaluation.swept import Row, best_row
from callbacks.files.pictures import save_picture

DOTS_PER_INCH = 110
MOST_KEYS = 7
"""Keys that have a panel of their own."""


def draw_sweep(
    rows: Sequence[Row], importances: Mapping[str, float] | str, logarithmic: Mapping[str, bool], path: Path
) -> None:
    """PNG with the history, the importances, and a panel for each key.

    Args:
        rows: what was tried.
        importances: share of each key in what decides, adding up to 1; or why there are none.
        logarithmic: keys, and whether their axis is logarithmic.
        path: path of the PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second of imports that only the end needs
    from matplotlib.figure import Figure

    keys = list(logarithmic)[:MOST_KEYS]
    columns = min(3, len(keys) + 2)
    lines = math.ceil((len(keys) + 2) / columns)
    figure = Figure(figsize=(3.6 * columns, 2.6 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    panels = [figure.add_subplot(lines, columns, number + 1) for number in range(len(keys) + 2)]
    _draw_history(panels[0], rows)
    _draw_importances(panels[1], importances)
    for axes, key in zip(panels[2:], keys, strict=True):
        _draw_key(axes, rows, key, logarithmic[key])
    for axes in panels:
        axes.tick_params(which="both", labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    save_picture(figure, path, DOTS_PER_INCH)


def best_so_far(rows: Sequence[Row]) -> tuple[list[int], list[float]]:
    """Numbers of trials with scores, and the best score up to each of them."""
    trials: list[int] = []
    best: list[float] = []
    leader = None
    for row in rows:
        leader = best_row([row] if leader is None else [leader, row])
        if row.score is not None and leader is not None and leader.score is not None:
            trials.append(row.trial)
            best.append(leader.score)
    return trials, best


def _draw_history(axes: Any, rows: Sequence[Row]) -> None:
    """Scores, what pruned trials had reached, failed ones at the bottom, and the best so far."""
    scored = [(row.trial, row.score) for row in rows if row.score is not None]
    pruned = [
        (row.trial, (min if row.lower else max)(row.evaluations.values()))
        for row in rows
        if row.state == "pruned" and row.evaluations
    ]
    failed = [row.trial for row in rows if row.state == "failed"]
    if scored:
        axes.plot(*zip(*scored, strict=True), "o", color="C0", markersize=3, label="score")
        axes.step(*best_so_far(rows), where="post", color="C0", linewidth=1.2, label="best so far")
    if pruned:
        axes.plot(*zip(*pruned, strict=True), "x", color="0.6", markersize=4, label="pruned, its best evaluation")
    if failed:
        low = axes.get_ylim()[0]
        axes.plot(failed, [low] * len(failed), "v", color="C3", markersize=4, label="failed")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_title("history", fontsize=9)
    axes.set_xlabel("trial", fontsize=8)
    if scored or pruned or failed:
        axes.legend(fontsize=6, frameon=False)


def _draw_importances(axes: Any, importances: Mapping[str, float] | str) -> None:
    """A bar for each key, or why there is none."""
    axes.set_title("importance", fontsize=9)
    if isinstance(importances, str):
        axes.text(0.5, 0.5, importances, ha="center", va="center", fontsize=8, wrap=True, transform=axes.transAxes)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    ordered = sorted(importances.items(), key=lambda pair: pair[1])
    axes.barh([key.rpartition(".")[2] for key, _ in ordered], [share for _, share in ordered], color="C0")
    axes.set_xlim(0.0, 1.0)


def _draw_key(axes: Any, rows: Sequence[Row], key: str, logarithmic: bool) -> None:
    """Scores over the values of one key; values without an order stand side by side."""
    values = [row.values[key] for row in rows if row.score is not None]
    scores = [row.score for row in rows if row.score is not None]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    colours = [row.trial for row in rows if row.score is not None]
    axes.scatter(values if numbers else [str(value) for value in values], scores, c=colours, cmap="viridis", s=9)
    if logarithmic:
        axes.set_xscale("log")
    axes.set_title(key.rpartition(".")[2], fontsize=9)
