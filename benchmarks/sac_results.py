"""Tables and figures of what `bench_sac.py` measured, over seeds."""

from __future__ import annotations

from pathlib import Path

from learning_tables import Content, contents, figure, group_table, save

GRADIENTS = {
    "expectation": "expectation",
    "straight_through": "straight-through",
    "gumbel_softmax": "Gumbel-softmax",
    "straight_through_gumbel": "straight-through Gumbel",
}
GAMES = {"cartpole": ("CartPole-v1", 450.0), "catch": ("Catch, 10x5 pixels", 0.9)}
PENDULUM = ("Pendulum-v1", -160.0)
"""Titles, and the returns that are to be reached."""


def measured(folder: Path) -> dict[str, tuple[str, float, dict[str, Content]]]:
    """By task, its title, its goal, and the runs that are there."""
    found = contents(folder, "sac")
    groups = {"pendulum": (*PENDULUM, {"reparametrised": found["pendulum"]} if "pendulum" in found else {})}
    for game, (title, goal) in GAMES.items():
        tasks = {name: f"{game}-{gradient.replace('_', '-')}" for gradient, name in GRADIENTS.items()}
        groups[game] = (title, goal, {name: found[task] for name, task in tasks.items() if task in found})
    return {name: group for name, group in groups.items() if group[2]}


def tables(folder: Path) -> list[str]:
    """The section on SAC, from the files that are there."""
    groups = measured(folder)
    if not groups:
        return []
    lines = ["", "## SAC: learning", ""]
    lines += [
        "Undiscounted return of the most likely actions over 100 episodes per seed of the last weights, from starting",
        "states that no curve was made with; mean over seeds with its 95% bootstrap interval. Minutes include",
        "evaluation, and are upper bounds: other runs shared the machine.",
    ]
    for name, (title, goal, runs) in groups.items():
        lines += ["", f"### {title}", "", *group_table(runs, goal, "gradient")]
        lines += ["", f"![returns while learning](results/sac-{name}.png)"]
    return lines


def draw(folder: Path) -> None:
    """PNG files of every task whose figures are there."""
    for name, (title, goal, runs) in measured(folder).items():
        save(figure(f"SAC: {title}", runs, goal), folder / f"sac-{name}.png")
