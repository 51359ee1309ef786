"""Tables and figures of what `bench_r2d2_learning.py` measured, over seeds."""

from __future__ import annotations

from pathlib import Path

from learning_tables import Content, contents, figure, group_table, save

# Figure: title, goal, and the runs that stand in one table, by what they are called there.
GROUPS: dict[str, tuple[str, float, dict[str, str]]] = {
    "tmaze": (
        "T-maze",
        0.9,
        {
            "corridor of 10": "tmaze-10",
            "corridor of 20": "tmaze-20",
            "corridor of 10, without a memory": "tmaze-10-memoryless",
        },
    ),
    "cartpole-masked": (
        "CartPole without velocities",
        300.0,
        {"LSTM": "cartpole-masked", "without a memory": "cartpole-masked-feedforward"},
    ),
}


def measured(folder: Path) -> dict[str, dict[str, Content]]:
    """By figure, the runs that are there."""
    found = contents(folder, "r2d2")
    groups = {name: {k: found[run] for k, run in runs.items() if run in found} for name, (*_, runs) in GROUPS.items()}
    return {name: runs for name, runs in groups.items() if runs}


def tables(folder: Path) -> list[str]:
    """The section on R2D2, from the files that are there."""
    groups = measured(folder)
    if not groups:
        return []
    lines = ["", "## R2D2: learning", ""]
    lines += [
        "Undiscounted greedy return over 100 episodes per seed of the last weights, from starting states that no curve",
        "was made with; mean over seeds with its 95% bootstrap interval. In the T-maze the return is 1 for a right and",
        "-1 for a wrong turn, so that a mean of 0.9 is 95% of right turns. Without a memory the agent sees its last",
        "action and reward all the same. Minutes include evaluation, and are upper bounds: other runs shared the",
        "machine.",
    ]
    for name, runs in groups.items():
        title, goal, _ = GROUPS[name]
        lines += ["", f"### {title}", "", *group_table(runs, goal)]
        lines += ["", f"![returns while learning](results/r2d2-{name}.png)"]
    return lines


def draw(folder: Path) -> None:
    """PNG files of every group whose figures are there."""
    for name, runs in measured(folder).items():
        title, goal, _ = GROUPS[name]
        save(figure(f"R2D2: {title}", runs, goal), folder / f"r2d2-{name}.png")
