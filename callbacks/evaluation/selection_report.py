"""The report of a selection: a table, JSON and CSV files, and a picture of the values."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from callbacks.evaluation.report import LOOK, policy_heading, unit_of
from callbacks.evaluation.selection import Judged, Selection
from callbacks.files.pictures import save_picture
from callbacks.files.written_aside import written_aside
from modules.functional.bandits import Spent
from modules.functional.choosing import Interval

NAMED = 12
"""Most candidates that the legend of a picture names."""

AGENTS = ("C0", "C1", "C3", "C4", "C5", "C6", "C8", "C9")
"""Colours of agents in a picture; green and grey are those of the lines."""

COLUMNS = ("value", "low", "gain %", "LSTD", "error", "gap", "distance", "log-lik.")


def selection_table(selection: Selection, title: str) -> Table:
    """One row per candidate, the data's behaviour first; the chosen one is marked."""
    table = Table(title=Text(title, "bold"), **LOOK)
    # What is counted in rewards has one unit, so that columns are narrow and names have room.
    data, rows = selection.data, selection.candidates
    rewards = [x for r in rows for x in (r.value, r.low, r.tournament, r.bellman_error, r.advantage_gap)]
    unit = unit_of((data.mean, data.low, *rewards))
    table.add_column(policy_heading(unit), overflow="fold")
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row("  data", _short(data.mean / unit), _short(data.low / unit), *[""] * (len(COLUMNS) - 2))
    for k, row in enumerate(selection.candidates):
        mark = "* " if k == selection.choice.chosen else "  "
        value, low, tournament = (_short(x / unit) for x in (row.value, row.low, row.tournament))
        values = [value, low, _short(row.gain), tournament]
        others = (row.bellman_error / unit, row.advantage_gap / unit, row.distance, row.log_likelihood)
        style = "bold" if k == selection.choice.chosen else ""
        table.add_row(Text(mark + row.name), *values, *(_short(x, 3) for x in others), style=style)
    for name in selection.diverged:
        table.add_row(Text(f"  {name}"), "diverged", *["-"] * (len(COLUMNS) - 1))
    return table


def selection_footer(selection: Selection) -> dict[str, str]:
    """Lines below the table: the choice and its reason, the margin, the data."""
    choice, names = selection.choice, [row.name for row in selection.candidates]
    gain = _told(choice.gain)
    if choice.best == choice.safe:
        reason = "the highest lower bound, and the safe one: " + _why_safe(selection)
    elif not choice.told_apart:
        reason = f"the safe one, {_why_safe(selection)}: one seed or one held-out episode cannot say what is better"
    elif selection.fell_back:
        reason = f"the safe one, {_why_safe(selection)}: {names[choice.best]} is not clearly better, by {gain}"
    else:
        reason = f"better than {names[choice.safe]} ({_why_safe(selection)}) by {gain}"
    lines = {"choice": f"{names[choice.chosen]}; {reason}"}
    if choice.margin is not None and choice.runner_up is not None:
        margin = _told(choice.margin)
        lines["margin"] = f"{names[choice.best]} above the next highest bound, {names[choice.runner_up]}: {margin}"
    improved = [row for row in selection.candidates if row.over_clone_low is not None]
    if improved:
        clearly = ", ".join(row.name for row in improved if (row.over_clone_low or 0.0) > 0.0) or "none"
        lines["better than what it cloned"] = f"{clearly}, of {len(improved)}"
    lines["tournament"] = f"the highest value by LSTD has {names[selection.tournament_choice]}"
    lines["data"] = (
        f"{selection.held_out_episodes:,} held-out episodes with a mean return of {_short(selection.data_return)}, "
        f"{_short(selection.data_discounted)} discounted"
    )
    return lines


def budget_report(selection: Selection, spent: Sequence[Spent]) -> tuple[Table, dict[str, str]]:
    """Real episodes by candidate, with mean returns, the best first; and lines about the leader and the curve."""
    table = Table(title=Text(f"{len(spent)} real episodes", "bold"), **LOOK)
    table.add_column("policy", overflow="fold")
    table.add_column("episodes", justify="right")
    table.add_column("mean return", justify="right")
    scores: dict[int, list[float]] = {}
    for one in spent:
        scores.setdefault(one.arm, []).append(one.score)
    for arm in sorted(scores, key=lambda k: -float(np.mean(scores[k]))):
        mark = "* " if arm == spent[-1].leader else "  "
        table.add_row(
            Text(mark + selection.candidates[arm].name), str(len(scores[arm])), _short(float(np.mean(scores[arm])))
        )
    moments = sorted({1, *(2**n for n in range(20) if 2**n < len(spent)), len(spent)})
    curve = ", ".join(f"{n}: {_short(spent[n - 1].mean)}" for n in moments)
    return table, {"choice": selection.candidates[spent[-1].leader].name, "leader's mean return by episodes": curve}


def write_selection(selection: Selection, folder: Path, spent: Sequence[Spent] = ()) -> list[Path]:
    """`select.json` with everything, `select.csv` with a line per candidate, `select.png`; and the real episodes.

    Each file is replaced as a whole.

    Returns:
        the files.
    """
    choice = selection.choice
    names = [row.name for row in selection.candidates]
    # Everything in one file, then the parts of it that people and spreadsheets look at.
    content: dict[str, Any] = {
        "chosen": names[choice.chosen],
        "fell_back": selection.fell_back,
        "best": names[choice.best],
        "safe": names[choice.safe],
        "gain_over_safe": choice.gain._asdict(),
        "runner_up": None if choice.runner_up is None else names[choice.runner_up],
        "margin": None if choice.margin is None else choice.margin._asdict(),
        "tournament_choice": names[selection.tournament_choice],
        "behaviour": selection.data._asdict()
        | {"return": selection.data_return, "discounted_return": selection.data_discounted},
        "held_out_episodes": selection.held_out_episodes,
        "updates": selection.updates,
        "held_out_error": selection.curve,
        **selection.about,
        "candidates": [asdict(row) for row in selection.candidates],
        "diverged": selection.diverged,
    }
    files = [folder / f"select.{kind}" for kind in ("json", "csv", "png")]
    if spent:
        content["chosen_by_episodes"] = names[spent[-1].leader]
        content["episodes"] = [s._asdict() | {"arm": names[s.arm], "leader": names[s.leader]} for s in spent]
        files.append(folder / "budget.png")
        draw_budget(spent, names, files[-1])
    else:
        (folder / "budget.png").unlink(missing_ok=True)  # of an earlier choice
    with written_aside(files[0]) as aside:
        aside.write_text(json.dumps(content, indent=1) + "\n")
    with written_aside(files[1]) as aside, aside.open("w", newline="") as file:
        writer = csv.DictWriter(file, [column.name for column in fields(Judged)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in selection.candidates)
    draw_values(selection, files[2])
    return files


def draw_values(selection: Selection, path: Path) -> None:
    """PNG of the fitted values against what differs, with lines of the cloned policy and of the data's behaviour.

    Where one hyper-parameter differs, its values are the axis; otherwise the candidates stand side by side.
    """
    figure, axes = new_figure()
    drawn = [(k, row) for k, row in enumerate(selection.candidates) if not row.is_clone] or [
        *enumerate(selection.candidates)
    ]
    against, settings, places = _places([row for _, row in drawn])
    # Along an axis of settings, agents of several files are told apart by colour; elsewhere each stands over its name.
    agents = list(dict.fromkeys(row.checkpoint for _, row in drawn)) if against else []
    labelled: set[str] = set()
    for place, (k, row) in zip(places, drawn, strict=True):
        of = agents.index(row.checkpoint) if len(agents) > 1 else 0
        label = row.name.removesuffix(row.member).strip() if len(agents) > 1 else "fitted value, 95% interval"
        ends = [[row.value - row.low], [row.high - row.value]]
        shown = {} if label in labelled else {"label": label}
        axes.errorbar([place], [row.value], yerr=ends, fmt="o", color=AGENTS[of % len(AGENTS)], capsize=3, **shown)
        labelled.add(label)
        if k == selection.choice.chosen:
            axes.plot([place], [row.value], "o", markersize=12, markerfacecolor="none", color="k", label="chosen")
    # What the values are read against.
    clones = [row for row in selection.candidates if row.is_clone]
    if clones and len(clones) < len(selection.candidates):
        taken = ", chosen" if selection.chosen.is_clone else ""
        axes.axhline(np.mean([row.value for row in clones]), color="C2", linestyle="-.", label=f"cloned policy{taken}")
    axes.axhline(selection.data.mean, color="0.4", linestyle="--", label="behaviour (data), fitted value")
    axes.axhline(selection.data_discounted, color="0.7", linestyle=":", label="data's discounted return")
    if against:
        axes.set_xticks(range(len(settings)), [f"{x:g}" for x in settings])
    else:
        axes.set_xticks(places, [row.name for _, row in drawn], rotation=30, ha="right", fontsize=8)
    axes.set(
        xlabel=against or "policy", ylabel="discounted value at first states", title="Values without the environment"
    )
    figure.legend(loc="outside lower center", frameon=False, fontsize=8, ncols=2)
    save_picture(figure, path, 130)


def _places(rows: Sequence[Judged]) -> tuple[str, list[float], list[float]]:
    """The hyper-parameter that differs, if it is one, its values in order, and each candidate's place on the axis.

    Values stand at equal distances, and candidates that share one, such as seeds, side by side.
    """
    kinds, settings = {row.hyperparameter for row in rows}, sorted({row.setting for row in rows})
    if len(kinds) > 1 or len(settings) < 2:
        return "", settings, [float(i) for i in range(len(rows))]
    shared = [[row for row in rows if row.setting == setting] for setting in settings]
    step = 0.5 / max(map(len, shared))
    beside = {id(row): i + step * (n - (len(one) - 1) / 2) for i, one in enumerate(shared) for n, row in enumerate(one)}
    return kinds.pop(), settings, [beside[id(row)] for row in rows]


def draw_budget(spent: Sequence[Spent], names: Sequence[str], path: Path) -> None:
    """PNG of the leader's mean score against the number of real episodes, with every episode as a dot."""
    figure, axes = new_figure()
    episodes = range(1, len(spent) + 1)
    axes.step(episodes, [s.mean for s in spent], where="post", color="C0", label="mean return of the leader")
    arms = list(dict.fromkeys(s.arm for s in spent))
    for index, arm in enumerate(arms):
        mine = [(i, s.score) for i, s in zip(episodes, spent, strict=True) if s.arm == arm]
        label = names[arm] if index < NAMED else None
        axes.plot(*zip(*mine, strict=True), ".", color=f"C{1 + index % 9}", alpha=0.7, label=label)
    axes.set(xlabel="real episodes", ylabel="return", title="Choosing with real episodes")
    axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc="outside lower center", frameon=False, fontsize=8, ncols=2)
    save_picture(figure, path, 130)


def new_figure() -> tuple[Any, Any]:
    """A figure on a canvas of its own, without pyplot, and its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second of imports that only the end needs
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2)
    return figure, axes


def _why_safe(selection: Selection) -> str:
    return "a cloned policy" if selection.candidates[selection.choice.safe].is_clone else "the nearest to the data"


def _told(interval: Interval) -> str:
    return f"{_short(interval.mean)} (95% interval {_short(interval.low)} .. {_short(interval.high)})"


def _short(value: float | None, digits: int = 4) -> str:
    """So many digits that matter."""
    if value is None:
        return "-"
    return f"{value:.1f}" if 1000 <= abs(value) < 1e6 else f"{value:.{digits}g}"
