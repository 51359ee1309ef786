"""Tables and figures of what `bench_simple.py` measured, over seeds."""

from __future__ import annotations

from pathlib import Path

import group_results

# Title, goal, and the runs that stand in one table, by what they are called there.
GROUPS: group_results.Groups = {
    "catch": (
        "Catch, 10x5 pixels",
        0.8,
        {
            "SimPLe, U-net": "catch",
            "SimPLe, tokens": "catch-tokens",
            "SimPLe, U-net, games from first frames": "catch-first-frames",
            "PPO, as many steps": "catch-ppo",
            "PPO, ten times as many": "catch-ppo-longer",
        },
    ),
}

ABOUT = (
    "Undiscounted return of the most likely actions over 100 episodes per seed of the last weights, from starting",
    "states that no curve was made with; mean over seeds with its 95% bootstrap interval. 0.8 is 90% of the balls",
    "caught, 0 is half of them, and -0.6 what chance gives. Environment steps count those of the random prefill.",
    "Minutes include evaluation, and are upper bounds: other runs shared the machine.",
)
"""Lines that say what the numbers are."""


def tables(folder: Path) -> list[str]:
    """The section on SimPLe, from the files that are there."""
    return group_results.section(folder, "simple", GROUPS, "SimPLe", ABOUT)


def draw(folder: Path) -> None:
    """PNG files of every group whose figures are there."""
    group_results.draw(folder, "simple", GROUPS, "SimPLe")
