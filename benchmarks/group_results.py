"""Sections and figures of benchmarks whose runs stand in groups: one table and one figure for each group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from learning_tables import Content, contents, figure, group_table, save

Groups = Mapping[str, tuple[str, float, dict[str, str]]]
"""By figure: title, goal, and the tasks that stand in one table, by what they are called there."""


def measured(folder: Path, benchmark: str, groups: Groups) -> dict[str, tuple[str, float, dict[str, Content]]]:
    """The groups of which runs are there, with these runs in the place of their tasks."""
    found = contents(folder, benchmark)
    there = {
        name: (title, goal, {label: found[task] for label, task in tasks.items() if task in found})
        for name, (title, goal, tasks) in groups.items()
    }
    return {name: group for name, group in there.items() if group[2]}


def section(
    folder: Path, benchmark: str, groups: Groups, title: str, about: Sequence[str], first: str = "agent"
) -> list[str]:
    """The lines of a section, from the files that are there; none where there are none.

    Args:
        folder: folder of the files.
        benchmark: how their names begin.
        groups: its groups.
        title: name of the agent.
        about: lines that say what the numbers are.
        first: head of the first column.
    """
    there = measured(folder, benchmark, groups)
    if not there:
        return []
    lines = ["", f"## {title}: learning", "", *about]
    for name, (head, goal, runs) in there.items():
        lines += ["", f"### {head}", "", *group_table(runs, goal, first)]
        lines += ["", f"![returns while learning](results/{benchmark}-{name}.png)"]
    return lines


def draw(folder: Path, benchmark: str, groups: Groups, title: str) -> None:
    """PNG files of the groups of which runs are there."""
    for name, (head, goal, runs) in measured(folder, benchmark, groups).items():
        save(figure(f"{title}: {head}", runs, goal), folder / f"{benchmark}-{name}.png")
