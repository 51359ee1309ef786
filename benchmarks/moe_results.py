"""Tables and figures of what `bench_moe_learning.py` measured: means over seeds with 95% bootstrap intervals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from modules.functional.statistics import bootstrap_interval

SEEN, HELD_OUT = "relative_error/seen", "relative_error/held_out"
PLACEMENTS = ("none", "first", "every_other", "last", "all")
ROUTINGS = {"noisy_top_k": "C0", "expert_choice": "C1"}

Rows = list[dict[str, Any]]


def mean(rows: Rows, value: Callable[[dict[str, Any]], float]) -> tuple[float, float, float]:
    """Mean over the seeds and its interval."""
    values = [value(row) for row in rows]
    return float(np.mean(values)), *bootstrap_interval(values)


def spread(rows: Rows, key: str) -> str:
    """`mean (low .. high)`."""
    middle, low, high = mean(rows, lambda row: row[key])
    return f"{middle:.3f} ({low:.3f} .. {high:.3f})"


def ratios(rows: Rows, others: Rows, key: str) -> Rows:
    """A figure relative to that of another network with the same seed, so on the same problem."""
    reference = {row["seed"]: row[key] for row in others}
    return [{"ratio": row[key] / reference[row["seed"]]} for row in rows]


def over_layers(rows: Rows, key: str, reduce: Callable[[list[float]], float]) -> str:
    """Mean over seeds of a figure that every mixture of a network has; empty without mixtures."""
    if not any(name.startswith(f"{key}/") for name in rows[0]):
        return ""
    values = [reduce([v for name, v in row.items() if name.startswith(f"{key}/")]) for row in rows]
    return f"{np.mean(values):.3g}"


def by_variant(content: dict[str, Any]) -> dict[str, Rows]:
    """The rows of each variant, in the order of the script."""
    return {
        name: mine for name in content["variants"] if (mine := [r for r in content["rows"] if r["variant"] == name])
    }


# -------------------------------------------------------------------------------------------------------------- tables
def tables(folder: Path) -> list[str]:
    """The section on mixtures, from the files that are there."""
    lines = ["", "## Mixtures of experts: learning", ""]
    lines += [
        "Squared error over the variance of the targets on 8,192 fresh rows, with the last weights, no routing noise:",
        "0 is perfect, 1 the best constant. Mean over seeds, each with a problem, data and weights of its own, and its",
        "95% bootstrap interval. Multiply-adds per row count the router and those `k` experts that a row visits;",
        "`max / mean` is the load of the busiest expert, of the worst mixture of a stack. CPU seconds were taken on a",
        "shared machine and are upper bounds.",
    ]
    for name, title in (("mixture", "64 latent tasks"), ("stacking", "Compositions of maps, some of them held out")):
        path = folder / f"moe-{name}.json"
        if path.exists():
            content = json.loads(path.read_text())
            lines += ["", f"### {title}", "", f"`{content['command']}`: {content['updates']:,} updates of 1,024 rows,"]
            lines += [f"config `{content['config']}`, {content['processor']}, one thread, {content['date']}.", ""]
            lines += mixture_table(content) if name == "mixture" else stacking_table(content)
            lines += ["", f"![figure of the table above](results/moe-{name}.png)"]
            if name == "mixture":
                lines += ["", "### Pruning", "", *pruning_table(content)]
                lines += ["", "![figure of the table above](results/moe-pruning.png)"]
    return lines if len(lines) > 8 else []


def mixture_table(content: dict[str, Any]) -> list[str]:
    """One row per network."""
    head = ["network", "relative error", "parameters", "multiply-adds", "CV² of load", "max / mean", "unused", "CPU s"]
    lines = ["| " + " | ".join([*head, "seeds"]) + " |", "|---" * (len(head) + 1) + "|"]
    for name, rows in by_variant(content).items():
        cells = [name, spread(rows, SEEN), f"{rows[0]['parameters']:,}", f"{rows[0]['multiply_adds']:,}"]
        cells += [over_layers(rows, key, max) for key in ("load_cv2", "load_max_over_mean", "unused_experts")]
        cells += [f"{np.mean([row['cpu_seconds'] for row in rows]):.0f}", str(len(rows))]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def stacking_table(content: dict[str, Any]) -> list[str]:
    """One row per network, seen and held-out combinations apart."""
    head = ["network", "seen", "held out", "seen, of dense", "held out, of dense", "parameters", "multiply-adds"]
    head += ["max / mean", "unused", "CPU s", "seeds"]
    lines = ["The errors of the dense network (none) of equal arithmetic and depth on the same problems are 1 in the"]
    lines += ["columns `of dense`.", "", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    variants = by_variant(content)
    for name, rows in variants.items():
        dense = variants[f"{name.split(', ')[0]}, none"]
        cells = [name, spread(rows, SEEN), spread(rows, HELD_OUT)]
        cells += [spread(ratios(rows, dense, key), "ratio") for key in (SEEN, HELD_OUT)]
        cells += [f"{rows[0]['parameters']:,}", f"{rows[0]['multiply_adds']:,}"]
        cells += [over_layers(rows, "load_max_over_mean", max), over_layers(rows, "unused_experts", sum)]
        cells += [f"{np.mean([row['cpu_seconds'] for row in rows]):.0f}", str(len(rows))]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def pruning_table(content: dict[str, Any]) -> list[str]:
    """One row per network and least share: what is left of experts, parameters and accuracy."""
    lines = [
        "Experts that got no more than a share of the rows are removed from the trained network; nothing is trained",
        "afterwards. Shares are counted on 65,536 rows; an even one is 0.0156. Shares that remove no more experts than",
        "the one above are left out.",
        "",
        "| network | least share | experts left | parameters left | relative error |",
        "|---|---|---|---|---|",
    ]
    for name, rows in by_variant(content).items():
        before = float("nan")
        for index, step in enumerate(rows[0].get("pruning", [])):
            mine = [row["pruning"][index] for row in rows]
            experts = float(np.mean([m["experts"] for m in mine]))
            if experts != before:
                left = np.mean([m["parameters"] / row["parameters"] for m, row in zip(mine, rows, strict=True)])
                error = spread(mine, "relative_error")
                lines.append(f"| {name} | {step['min_share']} | {experts:.1f} | {left:.0%} | {error} |")
            before = experts
    return lines


# ------------------------------------------------------------------------------------------------------------- figures
def draw(experiment: str, content: dict[str, Any], folder: Path) -> None:
    """PNG files of one experiment."""
    if experiment == "mixture":
        save(mixture_figure(content), folder / "moe-mixture.png")
        save(pruning_figure(content), folder / "moe-pruning.png")
    else:
        save(stacking_figure(content), folder / "moe-stacking.png")


def save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=110)


def logarithmic(axis: Axis) -> None:
    """A logarithmic axis with plain numbers at few places."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def point(axes: Axes, x: float, rows: Rows, key: str, **look: Any) -> None:
    """Mean and interval of a figure at one place of the x axis."""
    middle, low, high = mean(rows, lambda row: row[key])
    axes.errorbar([x], [middle], [[middle - low], [high - middle]], capsize=3, markersize=6, **look)


def mixture_figure(content: dict[str, Any]) -> Figure:
    """Error and unused experts of every network."""
    figure = Figure(figsize=(9.0, 4.4), layout="constrained")
    errors, unused = figure.subplots(1, 2, sharey=True, width_ratios=[2, 1])
    variants = by_variant(content)
    for y, (name, rows) in enumerate(variants.items()):
        middle, low, high = mean(rows, lambda row: row[SEEN])
        colour = "0.4" if name.startswith("dense") else "C0"
        errors.errorbar([middle], [y], xerr=[[middle - low], [high - middle]], fmt="o", capsize=3, color=colour)
        if text := over_layers(rows, "unused_experts", max):
            unused.barh(y, float(text), color=colour)
    errors.set_yticks(range(len(variants)), list(variants))
    errors.invert_yaxis()
    logarithmic(errors.xaxis)
    errors.set(xlabel="relative squared error, with 95% interval", title="64 latent tasks")
    unused.set(xlabel="unused experts", title="collapse")
    for axes in (errors, unused):
        axes.grid(alpha=0.2, which="both")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def pruning_figure(content: dict[str, Any]) -> Figure:
    """Error against parameters as the least share of an expert rises; one line per seed."""
    figure = Figure(figsize=(6.5, 4.0), layout="constrained")
    axes = figure.subplots()
    variants = {name: rows for name, rows in by_variant(content).items() if "pruning" in rows[0]}
    for index, (name, rows) in enumerate(variants.items()):
        for row in rows:
            # The first point is the network as it was trained.
            steps = [{"parameters": row["parameters"], "relative_error": row[SEEN]}, *row["pruning"]]
            x = [step["parameters"] / row["parameters"] for step in steps]
            y = [step["relative_error"] for step in steps]
            label = name if row is rows[0] else None
            axes.plot(x, y, "o-", markersize=4, linewidth=1, alpha=0.7, color=f"C{index}", label=label)
    logarithmic(axes.yaxis)
    axes.set(xlabel="share of the parameters that is left", ylabel="relative squared error", title="pruning")
    axes.grid(alpha=0.2, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return figure


def stacking_figure(content: dict[str, Any]) -> Figure:
    """Stacks of equal arithmetic, and placements by depth; filled: seen combinations, open: held-out ones."""
    variants = by_variant(content)
    figure = Figure(figsize=(11.0, 4.2), layout="constrained")
    wide, *depths = figure.subplots(1, 3, sharey=True)
    for x, prefix in enumerate(("wide stack of 1", "wide stack of 2", "depth 4")):
        both(wide, x, variants.get(f"{prefix}, none", []), "0.4")
        for routing, colour in ROUTINGS.items():
            both(wide, x, variants.get(f"{prefix}, all, {routing}", []), colour)
    wide.set(xlabel="blocks, all mixtures or all dense", title="stacks of equal arithmetic")
    wide.set_xticks(range(3), ["1", "2", "4"])
    for axes, depth in zip(depths, (2, 4), strict=True):
        placements = [p for p in PLACEMENTS if (depth, p) != (2, "every_other")]
        for x, placement in enumerate(placements):
            both(axes, x, variants.get(f"depth {depth}, {placement}", []), "0.4")
            for routing, colour in ROUTINGS.items():
                both(axes, x, variants.get(f"depth {depth}, {placement}, {routing}", []), colour)
        axes.set_xticks(range(len(placements)), [p.replace("_", " ") for p in placements], fontsize=8)
        axes.set(xlabel="blocks that are mixtures", title=f"{depth} blocks")
    wide.set_ylabel("relative squared error, with 95% interval")
    for label, colour in {"dense": "0.4", **ROUTINGS}.items():
        wide.plot([], [], "o", color=colour, label=label)
    wide.plot([], [], "o", color="0.7", markerfacecolor="none", label="open: held-out combinations")
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    for axes in (wide, *depths):
        logarithmic(axes.yaxis)
        axes.grid(alpha=0.2, which="both")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def both(axes: Axes, x: float, rows: Rows, colour: str) -> None:
    """Seen combinations filled, held-out ones open; nothing where there are no rows."""
    if rows:
        shift = {"0.4": 0.0, "C0": -0.12, "C1": 0.12}[colour]
        point(axes, x + shift, rows, SEEN, fmt="o", color=colour)
        point(axes, x + shift, rows, HELD_OUT, fmt="o", color=colour, markerfacecolor="white")
