"""Learning results of SimPLe on Catch: both video models, starts that are not random, and PPO without a model.

    python benchmarks/bench_simple.py [--tasks catch catch-tokens catch-first-frames catch-ppo ...] [--seeds 0 1 2]

PPO has as many real steps as SimPLe (3,000) in `catch-ppo`, and ten times as many in `catch-ppo-longer`. Adds to
`benchmarks/results/simple-<task>.json`, from which `benchmarks/report.py` makes tables. It may be cut anywhere: a run
that was cut goes on at its last checkpoint, and one that has ended is read back from its folder below
`runs/benchmarks`; remove that to run it again.
"""

from __future__ import annotations

from learning_runs import Task, main

CATCH = "simple/catch"

TASKS: dict[str, Task] = {
    "catch": (CATCH, ()),
    "catch-tokens": ("simple/catch_tokens", ()),
    "catch-first-frames": (CATCH, ("--model.random_starts", "false")),
    "catch-ppo": ("ppo/catch", ("--trainer.max_epochs", "3")),
    "catch-ppo-longer": ("ppo/catch", ()),
}


if __name__ == "__main__":
    main(__doc__, "simple", TASKS)
