"""Tables of what `bench_popart_learning.py` measured, over seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from learning_tables import Content, contents, header, last, minutes_of, reached, row_of, steps

from modules.functional.statistics import bootstrap_interval

SCALES = (1.0, 1e4)
GOAL = 0.9 * sum(SCALES) / len(SCALES)
PRESETS = {"cartpole": "CartPole-v1", "catch": "Catch, 10x5 pixels"}
VARIANTS = {
    "two-catch": "PopArt, Adam's moments kept",
    "two-catch-scaled": "PopArt, Adam's moments scaled",
    "two-catch-reset": "PopArt, Adam's moments reset",
    "two-catch-off": "no PopArt, the same network",
    "two-catch-scalar": "no PopArt, one value for both games",
}


def tables(folder: Path) -> list[str]:
    """The section on A2C and PopArt, from the files that are there."""
    found = contents(folder, "popart")
    if not found:
        return []
    lines = ["", "## A2C and PopArt: learning", ""]
    lines += [
        "Undiscounted return over 100 episodes per seed of the last weights, without exploration; mean over seeds with",
        "its 95% bootstrap interval. Minutes include evaluation, and are upper bounds: other runs shared the machine.",
    ]
    presets = {title: found[task] for task, title in PRESETS.items() if task in found}
    if presets:
        lines += ["", *header("task")]
        lines += [row_of(title, steps(c), last(c), minutes_of(c)) for title, c in presets.items()]
    variants = {title: found[task] for task, title in VARIANTS.items() if task in found}
    if variants:
        lines += ["", "### Two games of Catch at once, with rewards of 1 and of 10,000", ""]
        lines += ["Returns are divided by the game's scale: the best is 1, that of random actions -0.6.", ""]
        lines += [
            "`0.9 at` is the first evaluation of a seed that reaches that share of the best mean over both games, in"
        ]
        lines += ["environment steps, evaluated every 6 thousand.", ""]
        lines += [
            "| variant | environment steps | rewards of 1 | rewards of 10,000 | 0.9 at | minutes |",
            "|---" * 6 + "|",
        ]
        lines += [
            f"| {title} | {steps(c):,.0f} | {game(c, 0)} | {game(c, 1)} | {reached(c, GOAL)} | {minutes_of(c)} |"
            for title, c in variants.items()
        ]
    lines += ["", "Commands, for each seed with `--seed_everything SEED`: "]
    lines += ["; ".join(f"`{c['command']}`" for c in (presets | variants).values()) + "."]
    return lines


def game(content: Content, index: int) -> str:
    """Mean over seeds, its interval, and every seed."""
    values = [run["games"][index] for run in content["runs"]]
    low, high = bootstrap_interval(values)
    return f"{np.mean(values):.2f} ({low:.2f} .. {high:.2f}); {', '.join(f'{v:.2f}' for v in values)}"
