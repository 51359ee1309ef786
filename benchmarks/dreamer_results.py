"""Tables and figures of what `bench_dreamer_learning.py` and `bench_baselines.py` measured, over seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from learning_tables import Content, contents, figure, header, last, minutes_of, reached, row_of, save, steps

TASKS = {"cartpole": "CartPole-v1", "pendulum": "Pendulum-v1", "catch": "Catch, 10x5 pixels"}
OFFLINE = "DreamerV2, recorded episodes alone"
OPTIMISTIC = f"{OFFLINE}, without pessimism"
GOALS = {"cartpole": 450.0, "pendulum": -250.0, "catch": 0.9}
# Figure: title, and the runs of Catch that stand in one table, by what they are called there.
GROUPS: dict[str, tuple[str, dict[str, str]]] = {
    "latents": (
        "Latents",
        {"categorical": "catch", "Gaussian": "catch-gaussian", "vector quantised": "catch-vq"},
    ),
    "estimators": (
        "Gradient estimators of the categorical latent",
        {
            "straight-through": "catch",
            "Gumbel-softmax, temperature 1": "catch-gumbel",
            "Gumbel-softmax, 1 to 1/16": "catch-gumbel-cosine",
            "straight-through Gumbel, temperature 1": "catch-st-gumbel",
        },
    ),
    "balancing": ("KL balancing", {"on, alpha 0.9": "catch", "off, alpha 0.5": "catch-unbalanced"}),
}


def tables(folder: Path) -> list[str]:
    """The section on DreamerV2, from the files that are there."""
    found = contents(folder, "dreamer")
    baselines = json.loads((folder / "baselines.json").read_text()) if (folder / "baselines.json").exists() else []
    if not found:
        return []
    lines = ["", "## DreamerV2: learning", ""]
    lines += [
        "Undiscounted return over 100 episodes per seed of the last weights, without exploration, from starting states",
        "that no curve was made with; mean over seeds with its 95% bootstrap interval. Environment steps count those",
        "of the random prefill. Minutes include evaluation, and are upper bounds: other runs shared the machine.",
    ]
    for task, title in TASKS.items():
        if task in found:
            mine = [row for row in baselines if row["task"] == task]
            others = {version: found[f] for version, f in others_of(task).items() if f in found}
            lines += ["", f"### {title}", "", *task_table(found[task], mine, GOALS[task], others)]
            lines += ["", f"![returns while learning](results/dreamer-{task}.png)"]
    for name, (title, runs) in GROUPS.items():
        there = {label: found[run] for label, run in runs.items() if run in found}
        if len(there) > 1:
            lines += ["", f"### {title}, on Catch", "", *group_table(there)]
            lines += ["", f"![returns while learning](results/dreamer-{name}.png)"]
    return lines


def others_of(task: str) -> dict[str, str]:
    """Files that stand beside DreamerV2 in the table of a task, by what their rows are called."""
    return {OFFLINE: f"{task}-offline", OPTIMISTIC: f"{task}-optimistic-offline", "DreamerV3": f"v3-{task}"}


def task_table(content: Content, baselines: list[dict[str, Any]], goal: float, others: dict[str, Content]) -> list[str]:
    """Random policy, baselines, DreamerV2, and the `others` that have been measured, on one task."""
    lines = header("policy")
    random = [row["mean"] for run in content["runs"] for row in run["rows"] if row["kind"] == "random"]
    lines.append(row_of("random", 0, random, ""))
    for row in baselines:
        minutes = " ".join(f"{m:.1f}" for m in row["minutes"])
        lines.append(row_of(row["name"], row["environment_steps"], row["returns"], minutes))
    lines.append(row_of("DreamerV2", steps(content), last(content), minutes_of(content)))
    lines += [row_of(name, steps(other), last(other), minutes_of(other)) for name, other in others.items()]
    text = reached(content, goal)
    lines += ["", f"First evaluation at {goal:g} or above, by seed: {text} environment steps. Command, for each seed:"]
    lines += [f"`{content['command']} --seed_everything SEED`, {content['processor']}, one thread."]
    for name, other in others.items():
        when = "" if name.startswith(OFFLINE) else f": {reached(other, goal)} environment steps"
        lines += ["", f"{name}, `{other['command']} --seed_everything SEED`{when}."]
    return lines


def group_table(runs: dict[str, Content]) -> list[str]:
    """Variants of one task."""
    lines = header("variant")
    lines += [row_of(label, steps(c), last(c), minutes_of(c)) for label, c in runs.items()]
    found = "; ".join(f"{label}: {reached(c, GOALS['catch'])}" for label, c in runs.items())
    lines += ["", f"First evaluation at {GOALS['catch']:g} or above, by seed, in environment steps: {found}.", ""]
    lines += ["Commands: " + "; ".join(f"`{c['command']}`" for c in runs.values()) + "."]
    return lines


def draw(folder: Path) -> None:
    """PNG files of every task and group whose figures are there."""
    found = contents(folder, "dreamer")
    for task, title in TASKS.items():
        if task in found:
            curves = {"mean over seeds": found[task]}
            if f"v3-{task}" in found:
                curves = {"DreamerV2": found[task], "DreamerV3": found[f"v3-{task}"]}
            made = figure(f"DreamerV2 on {title}", curves, GOALS[task])
            save(made, folder / f"dreamer-{task}.png")
    for name, (title, runs) in GROUPS.items():
        there = {label: found[run] for label, run in runs.items() if run in found}
        if len(there) > 1:
            save(figure(f"{title}, on Catch", there, GOALS["catch"]), folder / f"dreamer-{name}.png")
