"""Learning of small tasks by five agents, with and without a share of the Bellman residual in their critics' losses.

    python benchmarks/bench_dqra.py [--tasks a2c-catch iql-pendulum ...] [--weights 0 0.5] [--seeds 0 1 2 3 4]

A cell is a task, a weight and a seed: one `reverie fit` in a process with one thread, one after the other. Its figures
are added to `benchmarks/results/dqra-<task>-<weight>.json`. A cell that is there is not run again, so that the table
can be made in pieces, and an interrupted command goes on where it was. `benchmarks/report.py` makes the tables from
them, in RESULTS.md and in `docs/dqra.md`.

Runs are shorter than those of the presets, but long enough to learn the task. The offline tasks learn from 50,000
recorded transitions of Pendulum, which `reverie collect --config collect/pendulum` writes if they are not there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dqra_results import TITLES, name_of
from learning_runs import Task, add, measured_seeds, recorded, run

PENDULUM = Path("data/minari/pendulum/mixed-v0")
OFFLINE = (
    "--data.source", str(PENDULUM), "--data.updates_per_epoch", "1000", "--data.reward_scale", "0.1",
    "--trainer.max_epochs", "10", "--model.hidden", "[64, 64]", "--model.compile", "false",
    "--evaluation.episodes", "20", "--evaluation.final_episodes", "100", "--evaluation.parallel", "100",
)  # fmt: skip
# Task: its run without a residual, and the argument that is the residual's weight.
TASKS: dict[str, tuple[Task, str]] = {
    "a2c-catch": (("a2c/catch", ("--trainer.max_epochs", "5")), "--model.residual_weight"),
    "a2c-cartpole": (("a2c/cartpole", ("--trainer.max_epochs", "10")), "--model.residual_weight"),
    "r2d2-tmaze": (("r2d2/tmaze", ("--trainer.max_epochs", "15")), "--model.residual_weight"),
    "dreamer-catch": (("dreamer/catch", ("--trainer.max_epochs", "5")), "--model.behaviour.residual_weight"),
    "td3_bc-pendulum": (("td3_bc/mujoco", OFFLINE), "--model.critic.residual_weight"),
    "iql-pendulum": (("iql/mujoco", OFFLINE), "--model.critic.residual_weight"),
}
assert TASKS.keys() == TITLES.keys()


def measure(task: str, weight: float, seed: int) -> None:
    """Train one cell, unless its figures are there."""
    name = name_of(task, weight)
    if seed in measured_seeds(name):
        print(f"{name}, seed {seed}: measured before", flush=True)
        return
    (config, extra), argument = TASKS[task]
    data = recorded(PENDULUM, "collect/pendulum") if str(PENDULUM) in extra else ""
    cell = config, (*extra, argument, f"{weight:g}")
    add(name, cell, run(name, cell, seed, lambda directory: {}, data))


def main() -> None:
    """Run the cells that the command line names and that are not there yet, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--weights", nargs="+", type=float, default=[0.0, 0.5])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    options = parser.parse_args()
    for seed in options.seeds:  # the table fills evenly
        for task in options.tasks:
            for weight in options.weights:
                measure(task, weight, seed)


if __name__ == "__main__":
    main()
