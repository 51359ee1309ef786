"""Picture of the ratings of an agent's earlier selves, over a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from callbacks.files.pictures import save_picture

DOTS_PER_INCH = 130


def draw_ratings(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """PNG of the rating of every copy over the updates that it was frozen at, and of players who learn nothing.

    Args:
        rows: `player`, `updates` and `rating` of each, see `callbacks.self_play.round_robin`.
        path: path of the PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second of imports that only the end needs
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    copies = [row for row in rows if row["updates"] >= 0]
    axes.plot([row["updates"] for row in copies], [row["rating"] for row in copies], marker="o", markersize=4)
    for row in rows:
        if row["updates"] < 0:
            axes.axhline(row["rating"], linestyle="--", linewidth=1.0, color="grey")
            axes.annotate(row["player"], (copies[-1]["updates"], row["rating"]), ha="right", va="bottom", fontsize=8)
    axes.set(xlabel="updates", ylabel="Elo rating, of the untrained policy 0")
    axes.set(title="Ratings by a round-robin of all copies")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2)
    save_picture(figure, path, DOTS_PER_INCH)
