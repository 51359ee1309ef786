"""Picture of a population: returns and genes of all members over its generations, and who copied whom."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from callbacks.files.pictures import save_picture
from callbacks.population import numbered

DOTS_PER_INCH = 130


def ancestors(copied: Sequence[Sequence[int | None]], members: int) -> list[list[int]]:
    """`[G + 1][M]` the first member whose weights each member has, in each generation and after the last one."""
    found = [list(range(members))]
    for choices in copied:
        found.append([found[-1][member if donor is None else donor] for member, donor in enumerate(choices)])
    return found


def draw_population(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """PNG with a panel for the returns, one for ratings if there are some, and one for each gene; a line is a member.

    A colour is a family: all that descend from one of the first members, and a thin line leads from a member to its
    copy. Genes whose values span more than a factor of five are on a logarithmic axis.

    Args:
        history: generations, each with the `genes` of all members during it, their `returns` and `ratings` at its end,
            and whom each of them `copied` then, or null.
        path: path of the PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second of imports that only the end needs
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    # What is drawn: a row of values for each generation, of each panel.
    members = len(history[0]["genes"])
    copied = [generation["copied"] for generation in history]
    families = ancestors(copied, members)
    panels = {"return": [[returns[0] for returns in generation["returns"]] for generation in history]}
    if history[0]["ratings"] is not None:
        panels["rating"] = [generation["ratings"] for generation in history]
    for name in numbered(history[0]["genes"][0]):
        panels[name.removeprefix("genes/")] = [
            [numbered(genes)[name] for genes in generation["genes"]] for generation in history
        ]
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)

    # Each panel: the way of each member, and of its weights where they came from another one.
    figure = Figure(figsize=(3.4 * columns, 2.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for index, (name, values) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        for time in range(len(values)):
            for member in range(members):
                mine, donor = values[time][member], copied[time - 1][member] if time else None
                color = f"C{families[time][member] % 10}"
                if time:
                    source = member if donor is None else donor
                    style = {"linewidth": 1.4} if donor is None else {"linewidth": 0.7, "linestyle": ":"}
                    axes.plot([time, time + 1], [values[time - 1][source], mine], color=color, **style)
                axes.plot(time + 1, mine, color=color, marker="o", markersize=2.5)
        finite = [value for row in values for value in row if math.isfinite(value)]
        if name not in ("return", "rating") and finite and min(finite) > 0.0 and max(finite) > 5.0 * min(finite):
            axes.set_yscale("log")
        axes.set_title(name, fontsize=9)
        axes.tick_params(which="both", labelsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    figure.supxlabel("generation", fontsize=9)
    save_picture(figure, path, DOTS_PER_INCH)
