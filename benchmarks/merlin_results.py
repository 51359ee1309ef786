"""Tables and figures of what `bench_merlin.py` measured, over seeds."""

from __future__ import annotations

from pathlib import Path

import group_results

# Title, goal of MERLIN's return, and the runs that stand in one table, by what they are called there.
GROUPS: group_results.Groups = {
    "cue": (
        "Cue of 8, asked for after 60 steps",
        0.9,
        {
            "MERLIN": "cue",
            "no retroactive write": "cue-no-retroactive",
            "no prediction (RL-MEM)": "cue-rl-mem",
            "no memory (RL-LSTM)": "cue-rl-lstm",
        },
    ),
    **{
        f"pairs-{cards}": (
            f"Pairs of {cards} cards",
            0.0,
            {"MERLIN": f"pairs-{cards}", "A2C, which sees the present card alone": f"pairs-{cards}-memoryless"},
        )
        for cards in (4, 6, 8)
    },
}

ABOUT = (
    "Undiscounted return of the most likely actions over 100 episodes per seed of the last weights, from starting",
    "states that no curve was made with; mean over seeds with its 95% bootstrap interval. A return of 0.9 is 95%",
    "right answers to the cue, -0.5 a quarter, and -0.75 what chance gives. Minutes include evaluation, and",
    "are upper bounds: other runs shared the machine.",
)
"""Lines that say what the numbers are."""


def tables(folder: Path) -> list[str]:
    """The section on MERLIN, from the files that are there."""
    return group_results.section(folder, "merlin", GROUPS, "MERLIN", ABOUT)


def draw(folder: Path) -> None:
    """PNG files of every group whose figures are there."""
    group_results.draw(folder, "merlin", GROUPS, "MERLIN")
