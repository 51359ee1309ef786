"""Tables and figures of what `bench_merlin.py` measured, over seeds."""

from __future__ import annotations

from pathlib import Path

from learning_tables import Content, contents, figure, group_table, save

# Title, goal of MERLIN's return, and the runs that stand in one table, by what they are called there.
GROUPS: dict[str, tuple[str, float, dict[str, str]]] = {
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


def measured(folder: Path) -> dict[str, dict[str, Content]]:
    """By figure, the runs that are there."""
    found = contents(folder, "merlin")
    groups = {name: {k: found[run] for k, run in runs.items() if run in found} for name, (*_, runs) in GROUPS.items()}
    return {name: runs for name, runs in groups.items() if runs}


def tables(folder: Path) -> list[str]:
    """The section on MERLIN, from the files that are there."""
    groups = measured(folder)
    if not groups:
        return []
    lines = ["", "## MERLIN: learning", ""]
    lines += [
        "Undiscounted return of the most likely actions over 100 episodes per seed of the last weights, from starting",
        "states that no curve was made with; mean over seeds with its 95% bootstrap interval. A return of 0.9 is 95%",
        "right answers to the cue, -0.5 a quarter, and -0.75 what chance gives. Minutes include evaluation, and",
        "are upper bounds: other runs shared the machine.",
    ]
    for name, runs in groups.items():
        title, goal, _ = GROUPS[name]
        lines += ["", f"### {title}", "", *group_table(runs, goal)]
        lines += ["", f"![returns while learning](results/merlin-{name}.png)"]
    return lines


def draw(folder: Path) -> None:
    """PNG files of every group whose figures are there."""
    for name, runs in measured(folder).items():
        title, goal, _ = GROUPS[name]
        save(figure(f"MERLIN: {title}", runs, goal), folder / f"merlin-{name}.png")
