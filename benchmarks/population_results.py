"""Tables of what `bench_population.py` measured, over seeds."""

from __future__ import annotations

import json
from pathlib import Path

NAMES = {"events": "rewards of events, evolved", "wins": "reward of wins alone"}


def tables(folder: Path) -> list[str]:
    """The section on populations, from the files that are there."""
    found = {name: json.loads(path.read_text()) for task, name in NAMES.items()
             if (path := folder / f"population-{task}.json").is_file()}  # fmt: skip
    if not found:
        return []
    lines = ["", "## Populations: a grid with a key and a door", ""]
    lines += [
        "Share of episodes that the best of six members wins: the one that was best in the last regular evaluation,",
        "over 100 episodes from other starting states, by its most likely actions. Both kinds have the same steps, and",
        "genes for the learning rate and the entropy; only the first learns from rewards of events, whose weights are",
        "genes. Minutes are upper bounds: other runs shared the machine.",
        "",
        "| reward | seed | wins | 95% interval | steps of each member | minutes |",
        "|---|---|---|---|---|---|",
    ]
    for name, content in found.items():
        for run in content["runs"]:
            lines.append(
                f"| {name} | {run['seed']} | {100 * run['wins']:.0f}% | {100 * run['low']:.0f}% to "
                f"{100 * run['high']:.0f}% | {run['steps']:,} | {run['minutes']} |"
            )
    for name, content in found.items():
        lines += ["", f"{name}: `{content['command']}`, {content['processor']}, {content['date']}."]
    for task, name in NAMES.items():
        if (folder / f"population-{task}.png").is_file():
            lines += ["", f"![{name}, seed 0](results/population-{task}.png)"]
    return lines
