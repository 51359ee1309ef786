"""Picture of what probes read off latents: one row per quantity, one column per probe, a line per source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from callbacks.files.pictures import save_picture
from callbacks.world_model.figures import DOTS_PER_INCH, new_figure

LOWEST = -0.1
"""Least score that is drawn: how far below 0 the share of the explained variance is says nothing."""


class Drawn(Protocol):
    """A score, see `callbacks.world_model.latent_probe.Score`."""

    @property
    def quantity(self) -> str: ...
    @property
    def measure(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def probe(self) -> str: ...
    @property
    def step(self) -> int: ...
    @property
    def value(self) -> float: ...


def draw_scores(scores: Sequence[Drawn], title: str, path: Path) -> None:
    """PNG of scores over the number of foreseen steps."""
    names, probes, sources = (
        list(dict.fromkeys(getattr(s, part) for s in scores)) for part in ("quantity", "probe", "source")
    )
    figure = new_figure(1.0 + 3.2 * len(probes), 1.2 + 1.7 * len(names))
    grid = figure.subplots(len(names), len(probes), sharex=True, sharey=True, squeeze=False)
    for row, name in enumerate(names):
        for column, probe in enumerate(probes):
            axes = grid[row][column]
            for source in sources:
                mine = [s for s in scores if (s.quantity, s.probe, s.source) == (name, probe, source)]
                thick = 2.0 if source == sources[0] else 1.0
                values = [max(s.value, LOWEST) for s in mine]
                axes.plot([s.step for s in mine], values, marker="o", markersize=3, linewidth=thick, label=source)
            axes.set_ylim(LOWEST - 0.03, 1.03)
            axes.grid(alpha=0.2)
            if column == 0:
                measure = next(s.measure for s in scores if s.quantity == name)
                axes.set_ylabel(f"{name}\n{measure}", fontsize=8)
            if row == 0:
                axes.set_title(f"{probe} probe", fontsize=9)
    grid[0][-1].legend(frameon=False, fontsize=7)
    figure.supxlabel("steps that the model foresees by itself", fontsize=9)
    figure.suptitle(title, fontsize=10)
    save_picture(figure, path, DOTS_PER_INCH)
