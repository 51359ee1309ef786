"""Tables and figures of how well recorded data choose, from the files of `bench_select.py`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pages import made_anew

from modules.functional.bandits import successive_halving, upper_confidence_bound
from modules.functional.choosing import rank_correlation, regret

PAGE = Path(__file__).parents[1] / "docs" / "select.md"
FIGURE = PAGE.parent / "figures" / "select.png"

Row = dict[str, Any]

SELECTORS: dict[str, Callable[[Row], float]] = {
    "fitted value": lambda row: row["value"],
    "lower bound": lambda row: row["low"],
    "tournament": lambda row: row["tournament"],
    "nearest to the data": lambda row: -row["distance"],
}
"""Estimates that rank the candidates."""

BUDGETS = (4, 8, 16, 32, 64, 128)
WAYS = {"successive halving": successive_halving, "upper confidence bounds": upper_confidence_bound}


def files_in(results: Path) -> list[Path]:
    """The measured files, one for each set and title."""
    return sorted(results.glob("select-*.json"), key=lambda path: path.stem)


def headline(content: dict[str, Any]) -> str:
    """The set of a file, with the title of the measurement."""
    return f"{content['set']}, {content['title']}" if content.get("title") else str(content["set"])


def tuned(results: Path, name: str) -> str:
    """Row of the preset that was chosen for a set by real returns, where that was measured; else empty."""
    path = results / f"learning-{name}.json"
    if not path.exists():
        return ""
    content = json.loads(path.read_text())
    last = next(row for row in content["rows"] if row["kind"] == "last")
    config = re.search(r"--config (\S+)", content["command"])
    return f"| `{config[1] if config else path.stem}`, tuned by real returns | | {last['mean']:.1f} | | | |"


def true_scores(run: dict[str, Any]) -> np.ndarray:
    """`[K]` mean returns of a run's candidates."""
    return np.array([np.mean(row["returns"]) for row in run["candidates"]])


def cloned(run: dict[str, Any]) -> float:
    """True score of the best cloned policy."""
    return float(max(np.mean(row["returns"]) for row in run["candidates"] if row["is_clone"]))


def picked(run: dict[str, Any]) -> dict[str, int]:
    """The candidate that each rule without a ranking takes."""
    rows = run["candidates"]
    names = [row["name"] for row in rows]
    members = [k for k, row in enumerate(rows) if not row["is_clone"]]
    clones = [k for k, row in enumerate(rows) if row["is_clone"]]
    return {
        "choice, with fallback": names.index(run["chosen"]),
        "safe fallback": max(clones, key=lambda k: rows[k]["low"]),
        "smallest beta": min(members, key=lambda k: rows[k]["setting"]),
        "largest beta": max(members, key=lambda k: rows[k]["setting"]),
    }


def leader_scores(run: dict[str, Any], way: str) -> dict[int, float]:
    """True score of the policy that so many real episodes choose, which are the first of those that were played."""
    rows, true = run["candidates"], true_scores(run)
    order = sorted(range(len(rows)), key=lambda k: -rows[k]["low"])
    found = {}
    for budget in BUDGETS:
        if budget <= len(rows[0]["returns"]):
            spent = WAYS[way](lambda k, e: rows[k]["returns"][e], order, budget)
            found[budget] = float(true[spent[-1].leader])
    return found


def tables(results: Path) -> list[str]:
    """Per set: rank correlation and regret of every rule, the score against real episodes, and the figure."""
    files = files_in(results)
    if not files:
        return []
    lines = ["", "## Choosing without the environment", ""]
    lines += [
        "Spearman's correlation of an estimate with the true scores over all candidates (a population of ATAC, what",
        "its members had cloned, and a cloned policy of its own), and regret@1: the best candidate's true score minus",
        "that of the one with the highest estimate, also in percent of what the best has above the best cloned policy.",
        "Means over seeds, the seeds' regrets behind them. Return is the true one of the policy that the rule takes;",
        "below it stand those of the best candidate, the best cloned policy and the data, and that of the preset whose",
        "settings were chosen for the set by returns in the environment, where there is one.",
    ]
    for path in files:
        content = json.loads(path.read_text())
        runs = content["runs"]
        lines += ["", f"### {headline(content)}", ""]
        lines += ["| rule | Spearman | return | regret@1 | of best - cloned | seeds |", "|---" * 6 + "|"]
        for name, estimate in SELECTORS.items():
            guesses = [[estimate(row) for row in run["candidates"]] for run in runs]
            rank = [rank_correlation(guess, true_scores(run)) for guess, run in zip(guesses, runs, strict=True)]
            lost = [regret(guess, true_scores(run)) for guess, run in zip(guesses, runs, strict=True)]
            lines.append(_row(name, f"{np.mean(rank):.2f}", lost, runs))
        for name in picked(runs[0]):
            lost = [float(true_scores(run).max() - true_scores(run)[picked(run)[name]]) for run in runs]
            lines.append(_row(name, "", lost, runs))
        best = np.mean([true_scores(run).max() for run in runs])
        lines.append(f"| best candidate | | {best:.1f} | | | |")
        lines.append(f"| best cloned policy | | {np.mean([cloned(run) for run in runs]):.1f} | | | |")
        lines += [row for row in [tuned(results, content["set"])] if row]
        lines.append(f"| the data | | {np.mean([run['behaviour']['return'] for run in runs]):.1f} | | | |")
        lines += ["", "True score of the choice by real episodes, mean over seeds:", ""]
        lines += _budget_table(runs)
        lines += ["", f"`{content['command']}`, {runs[-1]['processor']}, {runs[-1]['date']}."]
        lines += ["", f"![score against beta, {headline(content)}](results/{path.stem}.png)"]
    return lines


def _row(name: str, rank: str, lost: list[float], runs: list[dict[str, Any]]) -> str:
    room = [float(true_scores(run).max()) - cloned(run) for run in runs]
    share = f"{100 * np.sum(lost) / np.sum(room):.0f}%" if np.sum(room) > 0 else "-"
    returned = np.mean([true_scores(run).max() for run in runs]) - np.mean(lost)
    return (
        f"| {name} | {rank} | {returned:.1f} | {np.mean(lost):.1f} | {share} | {', '.join(f'{x:.1f}' for x in lost)} |"
    )


def _budget_table(runs: list[dict[str, Any]]) -> list[str]:
    by_way = {way: [leader_scores(run, way) for run in runs] for way in WAYS}
    budgets = list(next(iter(by_way.values()))[0])
    lines = ["| real episodes | " + " | ".join(map(str, budgets)) + " |", "|" + "---|" * (len(budgets) + 1)]
    for way, scores in by_way.items():
        lines.append(f"| {way} | " + " | ".join(f"{np.mean([s[n] for s in scores]):.1f}" for n in budgets) + " |")
    return lines


def page(results: Path) -> str:
    """The page of the documentation with its figure, where something was measured."""
    sets = [headline(json.loads(path.read_text())) for path in files_in(results)]
    lines = [
        "",
        f"![true score against beta, {', '.join(sets)}](figures/{FIGURE.name})",
        "",
        "True mean return of every member against `beta`, a line per seed, with the best cloned policy of that",
        "seed (dash-dotted), the data (dashed), and the choice in a circle. The tables:",
        "[RESULTS.md](../benchmarks/RESULTS.md#choosing-without-the-environment).",
    ]
    return made_anew(PAGE.read_text(), lines if sets else [])


def draw(results: Path, figure: Path | None = None) -> None:
    """True score against beta, one line per seed, with the cloned policy and the data: a file per set, and one of all.

    Args:
        results: folder with the measured files, which receives a picture for each.
        figure: picture of all sets; by default that of the documentation.
    """
    files = files_in(results)
    if not files:
        return
    contents = [json.loads(path.read_text()) for path in files]
    for path, content in zip(files, contents, strict=True):
        _draw([content], path.with_suffix(".png"), 1)
    _draw(contents, figure or FIGURE, 2)


def _draw(contents: list[dict[str, Any]], path: Path, columns: int) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-len(contents) // columns)
    figure = Figure(figsize=(7.0 * columns / (1 + 0.4 * (columns - 1)), 4.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel, content in zip(axes, contents, strict=False):
        _panel(panel, content)
    for panel in axes[len(contents) :]:
        panel.set_axis_off()
    figure.savefig(path, dpi=110)


def _panel(axes: Any, content: dict[str, Any]) -> None:
    """One set: scores against beta, and the lines that they are read against."""
    for index, run in enumerate(content["runs"]):
        members = sorted((r for r in run["candidates"] if not r["is_clone"]), key=lambda r: r["setting"])
        color, settings = f"C{index}", [row["setting"] for row in members]
        scores = [np.mean(row["returns"]) for row in members]
        axes.plot(settings, scores, "o-", color=color, markersize=4, label=f"seed {run['seed']}")
        axes.axhline(cloned(run), color=color, linestyle="-.", linewidth=1.0)
        chosen = next(row for row in run["candidates"] if row["name"] == run["chosen"])
        # A chosen cloned policy has no beta: its circle is on its line, where the betas begin.
        where = settings[0] if chosen["is_clone"] else chosen["setting"]
        axes.plot([where], [np.mean(chosen["returns"])], "o", color=color, markersize=11, markerfacecolor="none")
    axes.axhline(content["runs"][0]["behaviour"]["return"], color="0.4", linestyle="--", label="data")
    axes.set_xscale("log" if min(settings) > 0 else "symlog", base=2)
    axes.set_xticks(settings, [f"{x:g}" for x in settings])
    axes.set_xticks([], minor=True)
    axes.set(xlabel="beta", ylabel="true mean return")
    axes.set_title(f"{headline(content)}: chosen in circles, cloned dash-dotted", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2)
    axes.legend(frameon=False, fontsize=8)
