"""Tables and figures of what `bench_r2d2_learning.py` measured, over seeds."""

from __future__ import annotations

from pathlib import Path

import group_results

# Figure: title, goal, and the runs that stand in one table, by what they are called there.
GROUPS: group_results.Groups = {
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

ABOUT = (
    "Undiscounted greedy return over 100 episodes per seed of the last weights, from starting states that no curve",
    "was made with; mean over seeds with its 95% bootstrap interval. In the T-maze the return is 1 for a right and",
    "-1 for a wrong turn, so that a mean of 0.9 is 95% of right turns. Without a memory the agent sees its last",
    "action and reward all the same. Minutes include evaluation, and are upper bounds: other runs shared the",
    "machine.",
)
"""Lines that say what the numbers are."""


def tables(folder: Path) -> list[str]:
    """The section on R2D2, from the files that are there."""
    return group_results.section(folder, "r2d2", GROUPS, "R2D2", ABOUT)


def draw(folder: Path) -> None:
    """PNG files of every group whose figures are there."""
    group_results.draw(folder, "r2d2", GROUPS, "R2D2")
