"""Learning results of DreamerV2 and V3: three seeds per task, latents, gradient estimators and KL balancing apart, and
DreamerV2 from recorded episodes alone.

    python benchmarks/bench_dreamer_learning.py [--tasks cartpole pendulum catch v3-catch ...] [--seeds 0 1 2]

Adds to `benchmarks/results/dreamer-<task>.json`, from which `benchmarks/report.py` makes tables. A seed whose run
has ended is read back from its folder below `runs/benchmarks`; remove that to run it again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from learning_runs import Task, main, recorded

LATENT, ALPHA = "--model.world_model.init_args.latent", "--model.kl_alpha"
CATEGORICAL = "modules.world_model.latents.CategoricalLatent"


def latent(class_path: str, **arguments: Any) -> tuple[str, str]:
    """Arguments that put another latent into the world model."""
    return LATENT, json.dumps({"class_path": class_path, "init_args": arguments})


def estimator(name: str, **arguments: Any) -> tuple[str, str]:
    """Arguments that put another gradient estimator into the categorical latent."""
    return latent(CATEGORICAL, groups=8, classes=8, unimix=0.01, estimator=name, **arguments)


TASKS: dict[str, Task] = {
    "cartpole": ("dreamer/cartpole", ()),
    "pendulum": ("dreamer/pendulum", ()),
    "catch": ("dreamer/catch", ()),
    "catch-gaussian": ("dreamer/catch", latent("modules.world_model.latents.GaussianLatent", size=16)),
    "catch-vq": (
        "dreamer/catch",
        latent("modules.world_model.vector_quantised.VectorQuantisedLatent", groups=8, codes=8, code_width=8),
    ),
    "catch-gumbel": ("dreamer/catch", estimator("gumbel_softmax")),
    "catch-st-gumbel": ("dreamer/catch", estimator("straight_through_gumbel")),
    "catch-gumbel-cosine": ("dreamer/catch", ("--config", "dreamer/catch_gumbel_cosine")),
    "catch-unbalanced": ("dreamer/catch", (ALPHA, "0.5")),
    **{
        f"{task}-offline": (f"dreamer/{task}", ("--config", f"dreamer/{task}_offline"))
        for task in ("cartpole", "catch")
    },
    "cartpole-optimistic-offline": (
        "dreamer/cartpole",
        ("--config", "dreamer/cartpole_offline", "--model.pessimism", "null"),
    ),
    **{f"v3-{task}": (f"dreamer/v3_{task}", ()) for task in ("cartpole", "pendulum", "catch")},
}


def data_of(task: str) -> str:
    """Hash of the recorded episodes that a task learns from, which are collected if need be; empty without any."""
    base, _, kind = task.partition("-")
    return recorded(Path(f"data/minari/{base}/mixed-v0"), f"collect/{base}") if kind.endswith("offline") else ""


if __name__ == "__main__":
    main(__doc__, "dreamer", TASKS, data=data_of)
