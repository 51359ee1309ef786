"""Picture of the statistics that values are learned in, over a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from callbacks.files.pictures import save_picture

DOTS_PER_INCH = 130


def draw_statistics(history: Sequence[tuple[int, Mapping[str, float]]], path: Path) -> None:
    """PNG of mean and deviation of the targets over updates, one line with its band for each task.

    The axis is logarithmic away from zero, and linear within the order of the smallest deviation.

    Args:
        history: updates, and what was logged then: `<where>popart/mu<task>` and `<where>popart/sigma<task>`.
        path: path of the PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second of imports that only the end needs
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    updates = [moment for moment, _ in history]
    names = list(dict.fromkeys(name for _, found in history for name in found if "popart/mu" in name))
    smallest = np.inf
    for name in names:
        mu, sigma = (
            np.array([found.get(key, np.nan) for _, found in history])
            for key in (name, name.replace("popart/mu", "popart/sigma"))
        )
        smallest = min(smallest, np.nanmin(sigma))
        (line,) = axes.plot(updates, mu, linewidth=1.4, label=_label(name))
        axes.fill_between(updates, mu - sigma, mu + sigma, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set_yscale("symlog", linthresh=10.0 ** np.ceil(np.log10(smallest)))  # of other numbers, its ticks overlap
    axes.set(xlabel="updates", ylabel="targets of values", title="Mean and deviation that values are learned in")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2)
    axes.legend(frameon=False, fontsize=8)
    save_picture(figure, path, DOTS_PER_INCH)


def _label(name: str) -> str:
    """The part of `agent/.../popart/mu/task` that tells heads and tasks apart."""
    before, _, task = name.partition("popart/mu")
    where = before.strip("/").split("/")[1:]
    return " ".join([*where, f"task {task.strip('/')}" if task else "mean"])
