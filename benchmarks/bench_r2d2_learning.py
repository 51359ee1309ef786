"""Learning results of R2D2: three seeds per task, each beside the same agent without a memory.

    python benchmarks/bench_r2d2_learning.py [--tasks tmaze-10 tmaze-20 cartpole-masked ...] [--seeds 0 1 2]

Adds to `benchmarks/results/r2d2-<task>.json`, from which `benchmarks/report.py` makes tables. A seed whose run
has ended is read back from its folder below `runs/benchmarks`; remove that to run it again.
"""

from __future__ import annotations

from learning_runs import Task, main

CORRIDOR = "--data.environment_arguments.corridor"
WITHOUT_MEMORY = ("--model.network.init_args.memory", "modules.networks.recurrent.Memoryless")

TASKS: dict[str, Task] = {
    "tmaze-10": ("r2d2/tmaze", (CORRIDOR, "10")),
    "tmaze-20": ("r2d2/tmaze", (CORRIDOR, "20")),
    "tmaze-10-memoryless": ("r2d2/tmaze", (CORRIDOR, "10", *WITHOUT_MEMORY)),
    "cartpole-masked": ("r2d2/cartpole_masked", ()),
    "cartpole-masked-feedforward": ("r2d2/cartpole_masked", WITHOUT_MEMORY),
}


if __name__ == "__main__":
    main(__doc__, "r2d2", TASKS)
