"""Learning results of SAC: Pendulum, and the four gradients of numbered actions on CartPole and Catch, five seeds each.

    python benchmarks/bench_sac.py [--tasks pendulum cartpole-expectation ...] [--seeds 0 1 2 3 4]

Adds to `benchmarks/results/sac-<task>.json`, from which `benchmarks/report.py` makes tables. The command may be cut
anywhere: a training goes on at its last checkpoint, and a seed whose run has ended is read back from its folder below
`runs/benchmarks`; remove that to run it again.
"""

from __future__ import annotations

from learning_runs import Task, main
from sac_results import GAMES, GRADIENTS

TASKS: dict[str, Task] = {"pendulum": ("sac/pendulum", ())} | {
    f"{game}-{gradient.replace('_', '-')}": (f"sac/{game}", ("--model.gradient", gradient))
    for game in GAMES
    for gradient in GRADIENTS
}


if __name__ == "__main__":
    main(__doc__, "sac", TASKS, seeds=range(5))
