"""How well recorded data choose: `reverie select` against the true scores of all members.

    python benchmarks/bench_select.py --datasets DIR [--sets hopper-medium ...] [--seeds 0 1 2]

`DIR` holds `<set>.h5`. For each set and seed one population of ATAC over `--betas` and one cloned policy are trained,
compared by `reverie select` without the environment, and then played for their true scores. What is said of real
episodes is played from those same returns. The figures go to `benchmarks/results/select-<set>.json`, a seed that was
measured before is measured again; `benchmarks/report.py` makes tables and figures from them. Arguments behind `--fit`,
`--clone` and `--select`, each one text, are handed on to the commands.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench_learning import RESULTS, processor

CONFIGS = {"pendulum": "atac/pendulum", "halfcheetah": "atac/halfcheetah"}
"""Config of a set, by how its name begins; `atac/hopper` for all others."""

CLONE = "cloning/mujoco"
SETS = ["pendulum-mixed", "hopper-medium", "hopper-medium-replay", "halfcheetah-medium"]
BETAS = [0.25, 1.0, 4.0, 16.0, 64.0]


def reverie(*arguments: str) -> None:
    """Run one command in a process with one thread."""
    command = [sys.executable, "-m", "reverie", *arguments]
    print("reverie", *arguments, file=sys.stderr, flush=True)
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def trained(root: Path, source: Path, seed: int, config: str, *arguments: str) -> Path:
    """The folder of a new run."""
    reverie(
        "fit", "--config", config, "--data.source", str(source), "--seed_everything", str(seed), "--run_dir", str(root),
        *arguments,
    )  # fmt: skip
    return max(path for path in root.iterdir() if (path / "checkpoints").is_dir())


def true_returns(checkpoint: Path, episodes: int, file: Path) -> dict[str, list[float]]:
    """Returns of all members by name, from starting states that no training has seen."""
    reverie(
        "evaluate", "--ckpt_path", str(checkpoint), "--episodes", str(episodes), "--seed", "1000000",
        "--output", str(file),
    )  # fmt: skip
    return {member["member"]: member["returns"] for member in json.loads(file.read_text())["members"]}


def measure(name: str, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Everything about one set and seed."""
    source, root = options.datasets / f"{name}.h5", options.runs / f"{name}-{seed}"
    config = options.config or next((c for begin, c in CONFIGS.items() if name.startswith(begin)), "atac/hopper")
    betas = ["--model.beta", json.dumps(options.betas)]
    population = trained(root / "atac", source, seed, config, *betas, *shlex.split(options.fit))
    clone = trained(root / "clone", source, seed, CLONE, *shlex.split(options.clone))
    both = json.dumps([str(population), str(clone)])
    reverie(
        "select", "--ckpt_path", both, "--output", str(root / "select"), "--seed", str(seed), "--mlflow_run", "none",
        *shlex.split(options.select),
    )  # fmt: skip
    found = json.loads((root / "select/select.json").read_text())
    # True scores, of the same checkpoints.
    checkpoints = {row["checkpoint"] for row in found["candidates"]}
    returns = {path: true_returns(Path(path), options.episodes, root / "returns.json") for path in checkpoints}
    for row in found["candidates"]:
        row["returns"] = returns[row["checkpoint"]][row["member"]]
        row["checkpoint"] = Path(row["checkpoint"]).name
    kept = ("chosen", "fell_back", "safe", "tournament_choice", "behaviour", "updates", "fqe", "discount", "candidates")
    return {
        "seed": seed,
        "config": config,
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        **{key: found[key] for key in kept},
    }


def main() -> None:
    """Measure the chosen sets and seeds one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--betas", nargs="+", type=float, default=BETAS)
    parser.add_argument("--config", help="of ATAC, for all sets")
    parser.add_argument("--episodes", type=int, default=100, help="real episodes of each member, for its true score")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-select"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    for command in ("fit", "clone", "select"):
        parser.add_argument(f"--{command}", default="", help="further arguments of the command")
    options = parser.parse_args()
    for name in options.sets:
        path = options.results / f"select-{name}.json"
        for seed in options.seeds:
            measured = measure(name, options, seed)
            earlier = json.loads(path.read_text())["runs"] if path.exists() else []
            runs = sorted([*(r for r in earlier if r["seed"] != seed), measured], key=lambda r: r["seed"])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"set": name, "command": told(options), "runs": runs}, indent=1) + "\n")


def told(options: argparse.Namespace) -> str:
    """The command for people, without places of this machine."""
    extra = [f"--{name} {shlex.quote(value)}" for name in ("config", "fit", "clone", "select")
             if (value := getattr(options, name))]  # fmt: skip
    if options.betas != BETAS:
        extra.append("--betas " + " ".join(f"{beta:g}" for beta in options.betas))
    return " ".join(["python benchmarks/bench_select.py --datasets DIR", *extra])


if __name__ == "__main__":
    main()
