"""Learning results of MERLIN: a cue that is asked for long after, and pairs of cards, each beside a smaller memory.

    python benchmarks/bench_merlin.py [--tasks cue cue-rl-mem pairs-4 ...] [--seeds 0 1 2]

Adds to `benchmarks/results/merlin-<task>.json`, from which `benchmarks/report.py` makes tables. It may be cut anywhere:
a run that was cut goes on at its last checkpoint, and one that has ended is read back from its folder below
`runs/benchmarks`; remove that to run it again.
"""

from __future__ import annotations

from learning_runs import Task, main

END_TO_END = ("--model.prediction", "false")
CUE = "merlin/delayed_cue"


def pairs(cards: int) -> dict[str, Task]:
    """The game with so many cards, with MERLIN and with a policy that sees the present card alone."""
    told = ("--data.environment_arguments.cards", str(cards))
    alone = ("--data.environment", "reverie/Pairs-v0", *told)
    return {f"pairs-{cards}": ("merlin/pairs", told), f"pairs-{cards}-memoryless": ("a2c/catch", alone)}


TASKS: dict[str, Task] = {
    "cue": (CUE, ()),
    "cue-no-retroactive": (CUE, ("--model.predictor.memory.retroactive", "null")),
    "cue-rl-mem": (CUE, END_TO_END),
    "cue-rl-lstm": (CUE, (*END_TO_END, "--model.predictor.memory", "null")),
    **pairs(4),
    **pairs(6),
    **pairs(8),
}


if __name__ == "__main__":
    main(__doc__, "merlin", TASKS)
