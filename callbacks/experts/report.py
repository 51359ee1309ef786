"""The load of mixtures of experts over a run: bounded in memory, as a CSV file and as heat maps."""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from callbacks.files.pictures import save_picture
from callbacks.files.written_aside import written_aside

INTERVALS = 256  # more columns than a heat map can show; a checkpoint carries them all
PANELS = 8  # heat maps on one page
PANEL_SIZE = (7.0, 1.9)  # inches
MARGIN = 0.8  # inches for title and axis of the page
DOTS_PER_INCH = 130


class LoadHistory:
    """Rows of every expert over a run, in at most `INTERVALS` intervals: when they are full, neighbours are joined.

    Args:
        layers: number of experts of each mixture, by module path.
        start: updates before the first interval.

    Attributes:
        ends: updates at the end of each interval.
        rows: `[INTERVALS, E]` rows of all experts that a mixture has ever had, by module path.
        removed: `[E]` updates after which an expert was removed, -1 for those that are left.
    """

    def __init__(self, layers: Mapping[str, int], start: int = 0) -> None:
        self.start = start
        self.ends: list[int] = []
        self.readings = 0  # in the last interval, and in a full one
        self.per_interval = 1
        self.rows = {path: torch.zeros(INTERVALS, size, dtype=torch.int64) for path, size in layers.items()}
        self.removed = {path: torch.full((size,), -1) for path, size in layers.items()}

    def add(self, updates: int, loads: Mapping[str, Tensor]) -> None:
        """Take the rows that the experts got since the last call, `[E']` of those left, up to this update."""
        if not self.ends or self.readings == self.per_interval:
            if len(self.ends) == INTERVALS:
                self._join()
            self.ends.append(updates)
            self.readings = 0
        self.ends[-1] = updates
        self.readings += 1
        for path, load in loads.items():
            self.rows[path][len(self.ends) - 1, self.left(path)] += load

    def _join(self) -> None:
        self.ends = self.ends[1::2]
        self.per_interval *= 2
        for rows in self.rows.values():
            rows[: INTERVALS // 2] = rows[::2] + rows[1::2]
            rows[INTERVALS // 2 :] = 0

    def left(self, path: str) -> Tensor:
        """`[E']` first indices of the experts that a mixture still has."""
        return (self.removed[path] < 0).nonzero().squeeze(1)

    def remove(self, path: str, kept: Collection[int], updates: int) -> list[int]:
        """Of the experts that were left only `kept` still are; returns the first indices of the others."""
        gone = [first for i, first in enumerate(self.left(path).tolist()) if i not in kept]
        self.removed[path][gone] = updates
        return gone

    def loads(self, path: str) -> np.ndarray:
        """`[T, E]` rows per interval of one mixture; NaN once an expert was removed."""
        loads = self.rows[path][: len(self.ends)].double().numpy()
        removed = self.removed[path].numpy()
        loads[(np.array(self.ends)[:, None] > removed) & (removed >= 0)] = np.nan
        return loads

    def state_dict(self) -> dict[str, Any]:
        """Everything, in plain values and tensors."""
        return dict(vars(self))

    @staticmethod
    def from_state_dict(state: Mapping[str, Any]) -> LoadHistory:
        """Inverse of `state_dict`."""
        history = LoadHistory({})
        vars(history).update(state)
        return history


def write_csv(history: LoadHistory, path: Path) -> None:
    """One line per interval, one column per expert (`module path/index`), rows in it; the file is replaced as a whole.

    An expert's column is empty once it was removed.
    """
    loads = np.concatenate([history.loads(layer) for layer in history.rows], 1)
    with written_aside(path) as aside, aside.open("w", newline="") as file:
        writer = csv.writer(file)
        names = [f"{layer}/{expert}" for layer, rows in history.rows.items() for expert in range(rows.shape[1])]
        writer.writerow(["updates", *names])
        for end, row in zip(history.ends, loads.tolist(), strict=True):
            writer.writerow([end, *("" if value != value else int(value) for value in row)])


def draw_heat_maps(history: LoadHistory, folder: Path) -> list[Path]:
    """Load over updates and experts, one panel per mixture, `PANELS` of them on a page.

    A load of 1 is that of an even distribution. White experts got nothing, grey ones were removed.

    Returns:
        `expert_load.png`, or `expert_load_1.png` and so on where there are several pages.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second of imports
    from matplotlib.figure import Figure

    layers = list(history.rows)
    pages = [layers[i : i + PANELS] for i in range(0, len(layers), PANELS)]
    paths = []
    for number, page in enumerate(pages, 1):
        width, height = PANEL_SIZE
        figure = Figure(figsize=(width, MARGIN + height * len(page)), layout="constrained")
        FigureCanvasAgg(figure)
        for axes, layer in zip(figure.subplots(len(page), 1, sharex=True, squeeze=False)[:, 0], page, strict=True):
            _draw_panel(figure, axes, history, layer)
        axes.set_xlabel("updates")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        figure.suptitle("load of each expert, 1 is even; white: unused, grey: removed", fontsize=10)
        paths.append(folder / ("expert_load.png" if len(pages) == 1 else f"expert_load_{number}.png"))
        save_picture(figure, paths[-1], DOTS_PER_INCH)
    return paths


def _draw_panel(figure: Any, axes: Any, history: LoadHistory, layer: str) -> None:
    import matplotlib as mpl

    loads = history.loads(layer)
    mean = np.nanmean(loads, 1, keepdims=True)
    relative = loads / np.where(mean > 0, mean, 1.0)
    colors = mpl.colormaps["viridis"].with_extremes(under="white", bad="0.8")
    # A few experts far above the rest must not darken all the others.
    top = max(2.0, float(np.nanpercentile(relative, 99)))
    edges = [history.start, *history.ends]
    rows = np.arange(loads.shape[1] + 1) - 0.5
    mesh = axes.pcolormesh(edges, rows, relative.T, cmap=colors, vmin=1e-9, vmax=top, rasterized=True)
    figure.colorbar(mesh, ax=axes, extend="max", pad=0.01)
    axes.set_ylabel("expert")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set_title(layer, fontsize=9, loc="left")
