"""Table and figures of what `bench_two_timescale.py` measured, over seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from learning_tables import contents, save
from matplotlib.figure import Figure

GOAL = 0.95
LABELS = {
    "two-timescales": "two timescales",
    "lstm": "LSTM",
    "lstm-span": "LSTM, started as the core's units",
}
"""Names of the runs, by kind."""

ABOUT = (
    "A cue of 4 is asked for after 100 steps of noise: `python benchmarks/bench_two_timescale.py`. Supervised, with a",
    "loss at the end of each sequence alone, 64 new sequences an update. Accuracy is of the last weights on 1024 new",
    "sequences; a quarter is what chance gives. A run ends early where three evaluations in a row have 95%.",
)
"""Lines that say what the numbers are."""


def reached(run: dict[str, Any]) -> str:
    """Updates at a seed's first evaluation at the goal."""
    found = [row["updates"] for row in run["rows"] if row["accuracy"] >= GOAL]
    return f"{found[0]:,}" if found else f"never in {run['rows'][-1]['updates']:,}"


def measured(folder: Path) -> dict[str, dict[str, Any]]:
    """Contents of the kinds of which runs are there, by kind."""
    found = contents(folder, "two_timescale")
    return {kind: found[kind] for kind in LABELS if kind in found}


def tables(folder: Path) -> list[str]:
    """The section on the core, from the files that are there."""
    there = measured(folder)
    if not there:
        return []
    lines = ["", "## Two timescales: a cue over 100 steps", "", *ABOUT, ""]
    lines += ["| memory | parameters | updates to 95%, by seed | accuracy at the end, by seed | s of a core, by seed |"]
    lines += ["|---" * 5 + "|"]
    for kind, content in there.items():
        runs = content["runs"]
        cells = [LABELS[kind], f"{content['parameters']:,}", ", ".join(map(reached, runs))]
        cells += [", ".join(f"{run['last']:.1%}" for run in runs), ", ".join(f"{run['seconds']}" for run in runs)]
        lines += ["| " + " | ".join(cells) + " |"]
    return [*lines, "", "![accuracy while learning](results/two_timescale.png)"]


def draw(folder: Path) -> None:
    """A PNG file of the accuracy of all kinds whose runs are there."""
    there = measured(folder)
    if not there:
        return
    made = Figure(figsize=(6.5, 4.0), layout="constrained")
    axes = made.subplots()
    for index, (kind, content) in enumerate(there.items()):
        for number, run in enumerate(content["runs"]):
            x, y = ([row[name] for row in run["rows"]] for name in ("updates", "accuracy"))
            axes.plot(x, y, color=f"C{index}", linewidth=1.0, label=LABELS[kind] if number == 0 else None)
    axes.axhline(GOAL, color="0.6", linewidth=1.0, linestyle="--", label=f"goal {GOAL:g}")
    axes.set(xlabel="updates", ylabel="accuracy", title="A cue of 4 over 100 steps of noise", ylim=(0.0, 1.03))
    _finish(axes)
    save(made, folder / "two_timescale.png")


def draw_reach(gradients: dict[str, list[float]], path: Path) -> None:
    """A PNG file of the gradient of the last output by the row that it comes from.

    Args:
        gradients: `[T]` norms by what they are of, the first row first.
        path: the file.
    """
    made = Figure(figsize=(6.5, 4.0), layout="constrained")
    axes = made.subplots()
    for label, norms in gradients.items():
        axes.semilogy(range(len(norms) - 1, -1, -1), norms, label=label)
    axes.set(xlabel="rows before the last", ylabel="norm of the gradient", title="How far back a fresh memory learns")
    axes.set_ylim(1e-6, 10.0)
    _finish(axes)
    save(made, path)


def _finish(axes: Any) -> None:
    axes.legend(frameon=False, fontsize=9)
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
