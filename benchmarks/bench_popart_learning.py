"""Learning results of A2C and PopArt: presets, and two games at once with, without, and with variants of PopArt.

    python benchmarks/bench_popart_learning.py [--tasks two-catch two-catch-off ...] [--seeds 0 1 2]

Adds to `benchmarks/results/popart-<task>.json`, from which `benchmarks/report.py` makes tables. A seed whose run
has ended is read back from its folder below `runs/benchmarks`; remove that to run it again. Of two games at once, each
is evaluated apart, in units of its own rewards.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from learning_runs import Task, main
from popart_results import SCALES

from callbacks.evaluation.rollout import evaluate_policy
from datamodules.envs.make import EnvironmentSpec
from modules.agent.agent import Agent

EPISODES = 100
SEED = 1_000_000
"""Of the first episode, as in the last evaluation of a run."""


def popart(**arguments: Any) -> tuple[str, str]:
    """Arguments that put another PopArt into the run."""
    callback = {"class_path": "callbacks.popart.PopArt", "init_args": {"decay": 0.01, **arguments}}
    return "--trainer.callbacks", json.dumps([callback])


OFF = ("--trainer.callbacks", "[]")
SCALAR = ("--model.critic", "modules.networks.value_heads.Head", "--model.task_key", "null")

TASKS: dict[str, Task] = {
    "cartpole": ("a2c/cartpole", ()),
    "catch": ("a2c/catch", ()),
    "two-catch": ("a2c/two_catch", ()),
    "two-catch-off": ("a2c/two_catch", OFF),
    "two-catch-scalar": ("a2c/two_catch", (*OFF, *SCALAR)),
    "two-catch-scaled": ("a2c/two_catch", popart(adam="scaled")),
    "two-catch-reset": ("a2c/two_catch", popart(adam="reset")),
}


def games(directory: Path) -> dict[str, Any]:
    """Mean return of the last weights in each of two games, divided by the game's scale."""
    agent = Agent.from_checkpoint(directory / "checkpoints/last.ckpt")
    if "task" not in agent.spaces.observations_by_key():
        return {}
    specs = [EnvironmentSpec("reverie/TwoCatch-v0", {"game": game}) for game in range(len(SCALES))]
    means = [evaluate_policy(agent, spec, EPISODES, SEED, parallel=EPISODES).returns.mean() for spec in specs]
    return {"games": [float(mean / scale) for mean, scale in zip(means, SCALES, strict=True)]}


if __name__ == "__main__":
    main(__doc__, "popart", TASKS, games)
