"""Picture of a comparison: learning curves, aggregates with intervals, profiles, and who is better."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from callbacks.evaluation.comparison import Band, Comparison, Interval
from callbacks.files.pictures import save_picture

COLUMNS = 3


def draw_comparison(comparison: Comparison, title: str, path: Path) -> None:
    """PNG with a panel for each axis of the curves, each aggregate, the profile and the best group's probabilities.

    A colour is a group; bands and bars are 95% intervals. The file is replaced as a whole.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second of imports that only the end needs
    from matplotlib.figure import Figure

    # The panels, in their order.
    colors = {name: f"C{number % 10}" for number, name in enumerate(comparison.groups)}
    panels: list[Callable[[Any], None]] = [
        partial(_bands, bands=bands, colors=colors, below=axis, beside=f"IQM of {comparison.unit}")
        for axis, bands in comparison.curves.items()
    ]
    shown = f"share of runs above it, {len(comparison.tasks)} task{'s' * (len(comparison.tasks) > 1)}"
    panels.append(partial(_bands, bands=comparison.profiles, colors=colors, below=comparison.unit, beside=shown))
    for name in next(iter(comparison.aggregates.values())):
        values = {group: of[name] for group, of in comparison.aggregates.items()}
        panels.append(partial(_bars, values=values, colors=colors, below=f"{name} of {comparison.unit}"))
    best = best_group(comparison)
    better = {other: comparison.improvement[best, other] for other in comparison.groups if other != best}
    if better:
        panels.append(partial(_better, values=better, colors=colors, best=best))

    # A page of them, with one legend.
    rows = math.ceil(len(panels) / COLUMNS)
    figure = Figure(figsize=(3.6 * COLUMNS, 2.5 * rows + 0.5 + 0.1 * len(colors)), layout="constrained")
    FigureCanvasAgg(figure)
    for number, draw in enumerate(panels):
        axes = figure.add_subplot(rows, COLUMNS, number + 1)
        draw(axes)
        axes.tick_params(which="both", labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    figure.suptitle(title, fontsize=10)
    handles = [figure.axes[0].plot([], [], color=color, label=name)[0] for name, color in colors.items()]
    figure.legend(handles=handles, loc="outside lower center", frameon=False, fontsize=8, ncols=2)
    save_picture(figure, path, 110)


def best_group(comparison: Comparison) -> str:
    """The group with the highest interquartile mean."""
    return max(comparison.groups, key=lambda name: comparison.aggregates[name]["IQM"].value)


def _bands(axes: Any, bands: Mapping[str, Band], colors: Mapping[str, str], below: str, beside: str) -> None:
    for name, band in bands.items():
        axes.plot(band.x, band.middle, color=colors[name], linewidth=1.4, marker="o" if len(band.x) == 1 else None)
        axes.fill_between(band.x, band.low, band.high, color=colors[name], alpha=0.2, linewidth=0)
    axes.set_xlabel(below, fontsize=8)
    axes.set_ylabel(beside, fontsize=8)
    axes.xaxis.set_major_locator(_few_ticks())
    axes.xaxis.set_major_formatter("{x:,g}")


def _bars(axes: Any, values: Mapping[str, Interval], colors: Mapping[str, str], below: str) -> None:
    for place, (name, one) in enumerate(values.items()):
        if np.isfinite(one.low):
            axes.barh(-place, one.high - one.low, left=one.low, height=0.5, color=colors[name], alpha=0.4)
        axes.plot([one.value, one.value], [-place - 0.25, -place + 0.25], color=colors[name], linewidth=2)
    axes.use_sticky_edges = False  # bars would end at the frame
    axes.set_yticks([])
    axes.set_ylim(-len(values) + 0.4, 0.6)
    axes.set_xlabel(below, fontsize=8)
    axes.xaxis.set_major_locator(_few_ticks())


def _better(axes: Any, values: Mapping[str, Interval], colors: Mapping[str, str], best: str) -> None:
    _bars(axes, values, colors, f"probability that {best} is better"[:60])
    axes.axvline(0.5, color="0.4", linestyle="--", linewidth=1)
    axes.set_xlim(-0.03, 1.03)


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(5)
