"""Tables and figures of what `bench_sac.py` measured, over seeds."""

from __future__ import annotations

from pathlib import Path

import group_results

GRADIENTS = {
    "expectation": "expectation",
    "straight_through": "straight-through",
    "gumbel_softmax": "Gumbel-softmax",
    "straight_through_gumbel": "straight-through Gumbel",
}
GAMES = {"cartpole": ("CartPole-v1", 475.0), "catch": ("Catch, 10x5 pixels", 0.9)}
"""Titles, and the returns that are to be reached."""

GROUPS: group_results.Groups = {
    "pendulum": ("Pendulum-v1", -160.0, {"reparametrised": "pendulum"}),
    **{
        game: (title, goal, {name: f"{game}-{gradient.replace('_', '-')}" for gradient, name in GRADIENTS.items()})
        for game, (title, goal) in GAMES.items()
    },
}

ABOUT = (
    "Undiscounted return of the most likely actions over 100 episodes per seed of the last weights, from starting",
    "states that no curve was made with; mean over seeds with its 95% bootstrap interval. Minutes include",
    "evaluation, and are upper bounds: other runs shared the machine.",
)
"""Lines that say what the numbers are."""


def tables(folder: Path) -> list[str]:
    """The section on SAC, from the files that are there."""
    return group_results.section(folder, "sac", GROUPS, "SAC", ABOUT, "gradient")


def draw(folder: Path) -> None:
    """PNG files of every group whose figures are there."""
    group_results.draw(folder, "sac", GROUPS, "SAC")
