"""Learning results of DreamerV2: three seeds per task, latents, gradient estimators and KL balancing apart.

    python benchmarks/bench_dreamer_learning.py [--tasks cartpole pendulum catch ...] [--seeds 0 1 2]

Each run is one `reverie fit` of a committed config in a process with one thread. Its figures are added to
`benchmarks/results/dreamer-<task>.json`; `benchmarks/report.py` makes the tables from them. A seed that was measured
before is run again.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench_learning import RESULTS, number, processor

LATENT, ALPHA = "--model.world_model.init_args.latent", "--model.kl_alpha"
CATEGORICAL = "modules.networks.latent.CategoricalLatent"


def latent(class_path: str, **arguments: Any) -> tuple[str, str]:
    """Arguments that put another latent into the world model."""
    return LATENT, json.dumps({"class_path": class_path, "init_args": arguments})


def estimator(name: str, **arguments: Any) -> tuple[str, str]:
    """Arguments that put another gradient estimator into the categorical latent."""
    return latent(CATEGORICAL, groups=8, classes=8, unimix=0.01, estimator=name, **arguments)


# task: config, further arguments
TASKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "cartpole": ("dreamer/cartpole", ()),
    "pendulum": ("dreamer/pendulum", ()),
    "catch": ("dreamer/catch", ()),
    "catch-gaussian": ("dreamer/catch", latent("modules.networks.latent.GaussianLatent", size=16)),
    "catch-vq": (
        "dreamer/catch",
        latent("modules.networks.vector_quantised.VectorQuantisedLatent", groups=8, codes=8, code_width=8),
    ),
    "catch-gumbel": ("dreamer/catch", estimator("gumbel_softmax")),
    "catch-st-gumbel": ("dreamer/catch", estimator("straight_through_gumbel")),
    "catch-gumbel-cosine": ("dreamer/catch", estimator("gumbel_softmax", temperature="cosine(1, 0.0625, 9000)")),
    "catch-unbalanced": ("dreamer/catch", (ALPHA, "0.5")),
}


def run(task: str, seed: int) -> dict[str, Any]:
    """Train one seed of one task; its figures."""
    config, extra = TASKS[task]
    root = Path("runs") / f"benchmark-dreamer-{task}-{seed}"
    arguments = ["fit", "--config", config, "--seed_everything", str(seed), "--run_dir", str(root), *extra]
    start = time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "reverie", *arguments], check=True, env=environment)
    minutes = (time.perf_counter() - start) / 60
    directory = max(p for p in root.iterdir() if p.is_dir())
    with (directory / "evaluation.csv").open() as file:
        rows = [{k: number(v) for k, v in row.items()} for row in csv.DictReader(file)]
    return {"seed": seed, "minutes": round(minutes, 1), "date": datetime.date.today().isoformat(), "rows": rows}


def add(task: str, result: dict[str, Any]) -> None:
    """Put a seed's figures into the task's file."""
    path = RESULTS / f"dreamer-{task}.json"
    config, extra = TASKS[task]
    command = " ".join(["reverie fit --config", config, *(f"'{a}'" if " " in a else a for a in extra)])
    content = {"task": task, "command": command, "processor": processor(), "runs": []}
    if path.exists():
        content["runs"] = [r for r in json.loads(path.read_text())["runs"] if r["seed"] != result["seed"]]
    content["runs"] = sorted([*content["runs"], result], key=lambda r: r["seed"])
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def main() -> None:
    """Run the chosen tasks one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    for task in options.tasks:
        for seed in options.seeds:
            add(task, run(task, seed))


if __name__ == "__main__":
    main()
