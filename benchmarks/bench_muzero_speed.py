"""Time until CartPole-v1 is solved: this project's Gumbel MuZero beside mujax's, one after the other, seed by seed.

    python -m venv .venv-mujax && .venv-mujax/bin/pip install mujax
    cd benchmarks/results && python ../bench_muzero_speed.py > bench_muzero_speed.jsonl

Each side is a process of its own, and its time is that from its start until 20 greedy episodes have the mean return of
the goal: here those of a regular evaluation of `reverie fit --config muzero/cartpole`, there the latest ones of its
evaluator. Prints a JSON line for each side and seed; a side that ends, or is as late as `--limit`, did not reach it.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measured_by import processor, tell

HERE = Path(__file__).parent
PEER = HERE.parent / ".venv-mujax" / "bin" / "python"
EPISODES = 20


def ours(seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Learn until an evaluation reaches the goal, which the table that `fit` writes shows."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--config", options.config, "--seed_everything", str(seed), "--run_dir", folder]
        episodes = ["--evaluation.episodes", str(EPISODES)]
        command = [sys.executable, "-m", "reverie", "fit", *arguments, *episodes]
        begun = time.perf_counter()
        with subprocess.Popen(command, stdout=sys.stderr, env=environment(options)) as process:
            try:
                while True:
                    ended = process.poll() is not None  # before the table is read for the last time
                    seconds = time.perf_counter() - begun
                    if found := reached(Path(folder), options.goal):
                        return {"seconds": seconds, **found}
                    if ended or seconds > options.limit:
                        return {}
                    time.sleep(0.2)
            finally:
                process.terminate()


def reached(folder: Path, goal: float) -> dict[str, Any]:
    """The first evaluation of a run that has the goal; empty for none yet."""
    for table in folder.glob("*/evaluation.csv"):
        with table.open() as file:
            for row in csv.DictReader(file):
                if row["kind"] == "curve" and row["environment_steps"] and float(row["mean"] or 0.0) >= goal:
                    return {"steps": int(float(row["environment_steps"])), "mean": float(row["mean"])}
    return {}


def theirs(seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """The line that mujax's side prints; empty, if it prints none."""
    setting = json.dumps({"seed": seed, "goal": options.goal, "episodes": EPISODES})
    command = [str(options.peer_python), str(HERE / "peers/mujax_cartpole.py"), setting]
    begun = time.perf_counter()
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=options.limit, env=environment(options))
    except subprocess.TimeoutExpired:
        return {}
    seconds = time.perf_counter() - begun
    lines = [json.loads(line) for line in told.stdout.splitlines() if line.startswith("{")]
    if told.returncode:
        raise SystemExit(f"mujax failed: {told.stderr[-400:]}")
    return {**lines[-1], "seconds": seconds} if lines else {}


def environment(options: argparse.Namespace) -> dict[str, str]:
    """Variables of both sides."""
    return os.environ | {"OMP_NUM_THREADS": str(options.threads), "JAX_PLATFORMS": "cpu"}


def main() -> None:
    """Both sides for every seed, in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--goal", type=float, default=475.0)
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds after which a side is stopped")
    parser.add_argument("--threads", type=int, default=2, help="of this project; mujax has threads of its own")
    parser.add_argument("--config", default="muzero/cartpole")
    parser.add_argument("--sides", nargs="+", choices=["reverie", "mujax"], default=["reverie", "mujax"])
    parser.add_argument("--peer-python", type=Path, default=PEER, help="python that has mujax")
    options = parser.parse_args()
    if "mujax" in options.sides and not options.peer_python.exists():
        parser.error(f"there is no {options.peer_python}; make it as the head of this file says, or name --peer-python")
    for seed in options.seeds:
        for side in options.sides:
            found = (ours if side == "reverie" else theirs)(seed, options)
            line = {
                "benchmark": f"CartPole-v1 to a mean return of {options.goal:g} over {EPISODES} greedy episodes",
                "command": f"python benchmarks/{Path(__file__).name}",
                "side": f"{side} {found.get('version', '')}".strip(),
                "seed": seed,
                "seconds": round(found["seconds"], 1) if found else f"not within {options.limit:g}",
                "environment steps": found.get("steps", ""),
                "mean return": found.get("mean", ""),
                "processor": processor(),
            }
            tell(line)


if __name__ == "__main__":
    main()
