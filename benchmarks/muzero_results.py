"""Tables of what `bench_muzero.py` measured: what was to be reached and was, over seeds, and what search adds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import muzero_horizons
import numpy as np
from learning_tables import Content, contents, curve, last, minutes_of
from muzero_cells import CELLS, Cell, Goal
from pages import made_anew

from modules.functional.statistics import bootstrap_interval

PAGE = Path(__file__).parents[1] / "docs" / "muzero.md"
PREFACE = [
    "Undiscounted greedy returns: of regular evaluations over 20 episodes, or of the last weights over 100 episodes",
    "from starting states that no curve was made with; mean over seeds with its 95% bootstrap interval. Against",
    "minimax it is the share of won games. Minutes include evaluation, and are upper bounds: other runs shared the",
    "machine.",
]


def at(run: dict[str, Any], steps: int) -> float:
    """Mean return of a seed's last regular evaluation at so many environment steps or before."""
    x, y = curve(run)
    return float(y[x <= steps][-1])


def values(content: Content, goal: Goal) -> list[float]:
    """The figure of every seed that a goal is about."""
    if goal.played is not None:
        return [float(run["plays"][goal.played][0]["success"]) for run in content["runs"]]
    if goal.at is not None:
        return [at(run, goal.at) for run in content["runs"]]
    return last(content)


def paired(content: Content, other: Content) -> list[float]:
    """Returns of the last weights less those of another cell, for each seed that both have."""
    mine, theirs = ({run["seed"]: last({"runs": [run]})[0] for run in c["runs"]} for c in (content, other))
    return [value - theirs[seed] for seed, value in mine.items() if seed in theirs]


def recorded(content: Content) -> float:
    """Mean return of the episodes that a cell learned from."""
    return float(next(row["mean"] for row in content["runs"][0]["rows"] if row["kind"] == "behaviour"))


def rows(name: str, found: dict[str, Content]) -> list[str]:
    """Rows of a cell: one for each goal, and one for the last weights where no goal is about them."""
    cell, content = CELLS[name], found[name]
    lines = []
    for goal in cell.goals:
        when = goal.played or ("last weights" if goal.at is None else f"{goal.at:,} steps")
        mine = values(content, goal)
        lines.append(row(cell, content, when, f"{goal.least:.4g}", mine, met(mine, goal.least)))
    if any(goal.at is None and goal.played is None for goal in cell.goals):
        return lines
    goal, told = "", ""
    if cell.above_data:
        goal, told = f"the data's {recorded(content):.4g}", met(last(content), recorded(content))
    elif cell.above is not None and cell.above[0] in found:
        other, by = cell.above
        apart = paired(content, found[other])
        goal, told = f"{by:g} above {CELLS[other].title}", difference(apart, by)
    return [*lines, row(cell, content, "last weights", goal, last(content), told)]


def row(cell: Cell, content: Content, when: str, goal: str, mine: Sequence[float], told: str) -> str:
    """One row of the table."""
    low, high = bootstrap_interval(mine)
    seeds = ", ".join(f"{value:.4g}" for value in mine)
    interval = f"{low:.4g} .. {high:.4g}"
    cells = (cell.title, when, goal, told, f"{np.mean(mine):.4g}", interval, seeds, minutes_of(content))
    return f"| {' | '.join(cells)} |"


def met(mine: Sequence[float], least: float) -> str:
    """Whether the mean reaches a goal, and how many seeds do."""
    share = f"{sum(value >= least for value in mine)} of {len(mine)} seeds"
    return f"{'yes' if np.mean(mine) >= least else 'no'}, {share}"


def difference(apart: Sequence[float], by: float) -> str:
    """Whether the mean difference is so large, and what it is."""
    if not apart:
        return "no seed in common"
    low, high = bootstrap_interval(apart)
    return f"{'yes' if np.mean(apart) >= by else 'no'}, {np.mean(apart):+.3g} ({low:+.3g} .. {high:+.3g})"


def searched(found: dict[str, Content]) -> list[str]:
    """Plays afterwards: the policy alone and with searches, and games against minimax."""
    lines = []
    for name, cell in CELLS.items():
        runs = found[name]["runs"] if name in found else []
        for play in cell.plays:
            plays = [run["plays"][play] for run in runs]
            for number in range(len(plays[0]) if plays else 0):
                of_seeds = [members[number] for members in plays]
                means = [member["mean"] for member in of_seeds]
                low, high = bootstrap_interval(means)
                won = [member["success"] for member in of_seeds if member["success"] is not None]
                cells = (cell.title, f"{play} {of_seeds[0]['member']}".strip(), f"{np.mean(means):.4g}",
                         f"{low:.4g} .. {high:.4g}", f"{np.mean(won):.0%}" if won else "")  # fmt: skip
                lines.append(f"| {cell.group}, {' | '.join(cells)} |")
    if not lines:
        return []
    head = ["| run | play | mean return | 95% interval | won |", "|---" * 5 + "|"]
    return ["", "### Plays with the last weights", "", *head, *lines]


def measured(folder: Path) -> list[str]:
    """All tables, of the cells that are there."""
    found = {name: content for name, content in contents(folder, "muzero").items() if name in CELLS}
    if not found:
        return []
    lines = ["", *PREFACE]
    columns = ("run", "when", "goal", "reached", "mean return", "95% interval", "seeds", "minutes")
    for group in dict.fromkeys(cell.group for cell in CELLS.values()):
        names = [name for name, cell in CELLS.items() if cell.group == group and name in found]
        if names:
            lines += ["", f"### {group}", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
            lines += [line for name in names for line in rows(name, found)]
    commands = [f"`{found[name]['command']}`" for name in CELLS if name in found]
    processors = sorted({content["processor"] for content in found.values()})
    told = f"Commands, for each seed with `--seed_everything SEED`, one thread, {', '.join(processors)}:"
    return [*lines, *searched(found), "", told, "; ".join(commands) + "."]


def tables(folder: Path) -> list[str]:
    """The section on the MuZero family."""
    lines = measured(folder)
    return ["", "## MuZero", *lines] if lines else []


def draw(folder: Path) -> None:
    """The figure of horizons by age."""
    muzero_horizons.draw(contents(folder, "muzero"))


def page(folder: Path) -> str:
    """The page of the documentation with its tables made anew."""
    drawn = ["", muzero_horizons.CAPTION] if muzero_horizons.by_target(contents(folder, "muzero")) else []
    return made_anew(PAGE.read_text(), [*measured(folder), *drawn])
