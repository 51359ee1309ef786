"""Table and figure of what `bench_capture_flag.py` measured, over seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from learning_tables import contents, save

GOAL = 200.0
"""Points of rating that the last copy is to be ahead of the first one that had learned."""

LABELS = {"ppo": "PPO"}

ABOUT = (
    "Each run freezes copies of its policy while it learns against them. When it ends, the copies and the last weights",
    "play 20 matches with each other, and with random players and players with a plan; ratings are the most likely",
    "ones for that whole table (Bradley-Terry, with a normal prior of 1000 points), and the untrained policy has 0.",
    "Actions are drawn from the policies. The gain is of the last weights over the first copy that had learned, the",
    "second of all; points are a share of the matches, in which a draw is half a point. Minutes are upper bounds:",
    "other runs shared the machine.",
)


def tables(folder: Path) -> list[str]:
    """The section, from the files that are there; none where there are none."""
    there = contents(folder, "capture-flag")
    if not there:
        return []
    lines = ["", "## Self-play: capture the flag", "", *ABOUT, ""]
    lines += [
        "| agent | seed | copies | first copy | last | gain | goal | last against random | against the plan | minutes |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|---|---|"]
    for task, content in there.items():
        lines += [row(LABELS[task], run) for run in content["runs"]]
    commands = [f"`{content['command']} --seed_everything SEED`" for content in there.values()]
    lines += ["", f"Commands: {', '.join(commands)}; {next(iter(there.values()))['processor']}."]
    return [*lines, "", "![ratings over a run](results/capture-flag-ratings.png)"]


def row(label: str, run: dict[str, Any]) -> str:
    """One seed of one agent."""
    copies = copies_of(run)
    first, last = copies[1], copies[-1]
    gain = last["rating"] - first["rating"]
    cells = [label, run["seed"], len(copies), f"{first['rating']:.0f} ({first['updates']} updates)"]
    cells += [f"{last['rating']:.0f} ({last['updates']})", f"{gain:+.0f}", "reached" if gain >= GOAL else "missed"]
    cells += [f"{last[f'points against {name}']:.2f}" for name in ("random", "planned")]
    return "| " + " | ".join(str(cell) for cell in [*cells, run["minutes"]]) + " |"


def copies_of(run: dict[str, Any]) -> list[dict[str, Any]]:
    """The copies of a run, without the players who learn nothing."""
    return [entry for entry in run["ratings"] if entry["updates"] >= 0]


def draw(folder: Path) -> None:
    """PNG of the ratings of all runs over updates, with those of players who learn nothing."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    there = contents(folder, "capture-flag")
    if not there:
        return
    figure = Figure(figsize=(6.0 * len(there), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (task, content) in zip(figure.subplots(1, len(there), squeeze=False)[0], there.items(), strict=True):
        for run in content["runs"]:
            copies = copies_of(run)
            axes.plot([e["updates"] for e in copies], [e["rating"] for e in copies], marker="o", markersize=3,
                      label=f"seed {run['seed']}")  # fmt: skip
            for entry in run["ratings"]:
                if entry["updates"] < 0:
                    style = {"random": ":", "planned": "--"}[entry["player"]]
                    axes.axhline(entry["rating"], linestyle=style, linewidth=0.8, color="grey")
        axes.set(
            xlabel="updates", ylabel="Elo rating, of the untrained policy 0", title=f"{LABELS[task]}: copies of a run"
        )
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
        axes.legend(frameon=False, fontsize=8, title="dotted: random, dashed: with a plan", title_fontsize=7)
    save(figure, folder / "capture-flag-ratings.png")
