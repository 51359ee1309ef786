"""Model-free baselines for the tasks of the world models, with as many environment steps.

    python -m venv ENV && ENV/bin/pip install stable-baselines3
    python benchmarks/bench_baselines.py --peer-python ENV/bin/python [--tasks cartpole pendulum catch]

The baselines are not a dependency of this project. Adds to `benchmarks/results/baselines.json`; a task that was
measured before is run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path

from measured_by import RESULTS, origin

STEPS = {"cartpole": 40_000, "pendulum": 20_000, "catch": 10_000}
PEER = Path(__file__).parent / "peers/model_free.py"


def main() -> None:
    """Run all tasks and seeds one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--tasks", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    path = RESULTS / "baselines.json"
    for task in options.tasks:
        steps, runs = STEPS[task], []
        for seed in options.seeds:
            command = [options.peer_python, str(PEER), task, str(seed), str(steps)]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
            print(task, seed, runs[-1], flush=True)
        rows = json.loads(path.read_text()) if path.exists() else []
        rows = [row for row in rows if row["task"] != task]
        rows.append(
            {
                "task": task,
                "name": f"{runs[0]['name']} (stable-baselines3 {runs[0]['version']})",
                "environment_steps": steps,
                "returns": [run["return"] for run in runs],
                "minutes": [run["minutes"] for run in runs],
                "origin": origin(seeds=options.seeds),
            }
        )
        path.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
