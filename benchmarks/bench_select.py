"""How well recorded data choose: `reverie select` against the true scores of all members.

    python benchmarks/bench_select.py --datasets DIR [--sets hopper-medium ...] [--seeds 0 1 2] [--config C --title T]

`DIR` holds `<set>.h5`. For each set and seed one population of ATAC over `--betas` and one cloned policy are trained,
compared by `reverie select` without the environment, and then played for their true scores. What is said of real
episodes is played from those same returns. The figures go to `benchmarks/results/select-<set>.json`, and a seed that is
there is not measured again; `--title`, words that name the measurement, keeps the figures of another `--config` or of
other betas in files of their own. `benchmarks/report.py` makes tables and figures from them. Arguments behind `--fit`,
`--clone` and `--select`, each one text, are handed on to the commands.

One training runs at a time, in a folder below `runs/benchmarks`. One that has ended is read back, one that was cut goes
on at its last checkpoint, and so does the comparison behind them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from learning_runs import Unfinished, content_hash, reverie, run
from measured_by import RESULTS, origin, processor
from resumed_runs import key_of, log
from titles import titled, words

from callbacks.files.written_aside import written_aside

CONFIGS = {"pendulum": "atac/pendulum", "halfcheetah": "atac/halfcheetah"}
"""Config of a set, by how its name begins; `atac/hopper` for all others."""

CLONE = "cloning/mujoco"
SETS = ["pendulum-mixed", "hopper-medium", "hopper-medium-replay", "halfcheetah-medium"]
BETAS = [0.25, 1.0, 4.0, 16.0, 64.0]


def trained(name: str, source: Path, seed: int, config: str, *arguments: str) -> Path:
    """The folder of a run that was brought to its end, unless it had ended before."""
    task = (config, ("--data.source", str(source), *arguments))
    return Path(run(name, task, seed, lambda directory: {"folder": str(directory)}, content_hash(source))["folder"])


def compared(runs: list[Path], seed: int, extra: str) -> dict[str, Any]:
    """Findings of `reverie select` about the policies of these runs, which are made once."""
    output = runs[0] / f"select-{key_of([path.name for path in runs], seed, extra)}"
    found = output / "select.json"
    if not found.exists():
        reverie(
            "select", "--ckpt_path", json.dumps([str(path) for path in runs]), "--output", str(output),
            "--seed", str(seed), "--mlflow_run", "none", *shlex.split(extra),
        )  # fmt: skip
    return dict(json.loads(found.read_text()))


def true_returns(checkpoint: Path, episodes: int) -> dict[str, list[float]]:
    """Returns of all members by name, from starting states that no training has seen; they are played once."""
    kept = checkpoint.parents[1] / f"true-{checkpoint.stem}-{episodes}.json"
    if not kept.exists():
        with tempfile.TemporaryDirectory() as folder:
            played = Path(folder) / "played.json"
            reverie(
                "evaluate", "--ckpt_path", str(checkpoint), "--episodes", str(episodes), "--seed", "1000000",
                "--output", str(played),
            )  # fmt: skip
            members = json.loads(played.read_text())["members"]
        with written_aside(kept) as aside:
            aside.write_text(json.dumps({member["member"]: member["returns"] for member in members}) + "\n")
    return dict(json.loads(kept.read_text()))


def measure(name: str, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Everything about one set and seed.

    Raises:
        Unfinished: a training did not end well.
    """
    source = options.datasets / f"{name}.h5"
    config = options.config or next((c for begin, c in CONFIGS.items() if name.startswith(begin)), "atac/hopper")
    betas = ["--model.beta", json.dumps(options.betas)]
    population = trained(f"select-{name}-atac", source, seed, config, *betas, *shlex.split(options.fit))
    clone = trained(f"select-{name}-clone", source, seed, CLONE, *shlex.split(options.clone))
    log(f"select-{name}, seed {seed}: comparing")
    found = compared([population, clone], seed, options.select)
    log(f"select-{name}, seed {seed}: playing")
    # True scores, of the same checkpoints.
    checkpoints = {row["checkpoint"] for row in found["candidates"]}
    returns = {path: true_returns(Path(path), options.episodes) for path in checkpoints}
    for row in found["candidates"]:
        row["returns"] = returns[row["checkpoint"]][row["member"]]
        row["checkpoint"] = Path(row["checkpoint"]).name
    kept = ("chosen", "fell_back", "tournament_choice", "behaviour", "updates", "fqe", "discount", "candidates")
    return {
        "seed": seed,
        "config": config,
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "origin": origin([population, clone], {name: content_hash(source)}),
        **{key: found[key] for key in kept},
    }


def earlier(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The figures of a set that are there.

    Raises:
        ValueError: it was measured by another command.
    """
    path = options.results / f"{titled(f'select-{name}', options.title)}.json"
    if not path.exists():
        return []
    content = json.loads(path.read_text())
    if content["command"] != told(options):
        raise ValueError(f"{path} is of {content['command']}: name this one by another --title")
    return list(content["runs"])


def add(name: str, options: argparse.Namespace, measured: dict[str, Any]) -> None:
    """Put a seed's figures into the set's file."""
    runs = sorted([*earlier(name, options), measured], key=lambda r: r["seed"])
    options.results.mkdir(parents=True, exist_ok=True)
    content = {"set": name, "title": options.title, "command": told(options), "runs": runs}
    with written_aside(options.results / f"{titled(f'select-{name}', options.title)}.json") as aside:
        aside.write_text(json.dumps(content, indent=1) + "\n")


def main() -> int:
    """Measure the chosen sets and seeds that have no figures yet; 1 if one of them has none then."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--betas", nargs="+", type=float, default=BETAS)
    parser.add_argument("--config", help="of ATAC, for all sets")
    parser.add_argument("--title", type=words, default="", help="words that tell these figures and files from others")
    parser.add_argument("--episodes", type=int, default=100, help="real episodes of each member, for its true score")
    parser.add_argument("--results", type=Path, default=RESULTS)
    for command in ("fit", "clone", "select"):
        parser.add_argument(f"--{command}", default="", help="further arguments of the command")
    options = parser.parse_args()
    options.datasets = options.datasets.resolve()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a training is ended in good order
    try:
        measured = {(name, r["seed"]) for name in options.sets for r in earlier(name, options)}
    except ValueError as error:
        parser.error(str(error))
    good = True
    for seed in options.seeds:  # the tables fill evenly
        for name in [name for name in options.sets if (name, seed) not in measured]:
            try:
                add(name, options, measure(name, options, seed))
            except (Unfinished, subprocess.CalledProcessError) as error:
                good = False
                log(f"select-{name}, seed {seed}: {error}")
    return 0 if good else 1


def told(options: argparse.Namespace) -> str:
    """The command for people, without places of this machine."""
    extra = [f"--{name} {shlex.quote(value)}" for name in ("config", "title", "fit", "clone", "select")
             if (value := getattr(options, name))]  # fmt: skip
    if options.betas != BETAS:
        extra.append("--betas " + " ".join(f"{beta:g}" for beta in options.betas))
    return " ".join(["python benchmarks/bench_select.py --datasets DIR", *extra])


if __name__ == "__main__":
    sys.exit(main())
