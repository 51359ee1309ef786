"""Gain of looking ahead, in a model learned from the same data, over ATAC alone.

    python benchmarks/bench_lookahead.py [--episodes 20] [--epochs 6 8 15] [--folder runs/lookahead] [--results FILE]

Pendulum, from 20,000 mediocre transitions: ATAC and the ensemble learn from them alone, nothing is tuned by returns,
and the last checkpoints play the same episodes with and without lookahead. Shorter runs of ATAC, which leave more to be
gained, are compared, too; all else is of the longest. What has been trained in the folder is not trained again.

Controls are ensembles of the same data whose actions were permuted over the rows (nothing is known of what actions
do), or have the other sign (all networks are sure of the wrong thing). Gains against depth, against the return of the
base policy, and against the held-out error of ensembles that learned for less long, become figures in docs/figures; all
numbers go to `lookahead.json` beside the others. `python benchmarks/lookahead_figures.py` draws the figure of the
Newton step, which measures nothing.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lookahead_figures
import minari
import numpy as np
import torch
from measured_by import RESULTS, origin, processor

from datamodules.offline import OfflineDataModule
from datamodules.recorded.sources import content_hash
from modules.algorithms.dynamics_ensemble import DynamicsEnsemble
from modules.functional.statistics import bootstrap_interval

DATASET = "pendulum/mediocre-v0"
BEHAVIOUR = [
    {"behaviour": "random", "share": 0.4},
    {"behaviour": "controller", "noise": 2.0, "share": 0.4},
    {"behaviour": "controller", "noise": 1.0, "share": 0.2},
]
DEPTHS = (1, 2, 3, 5, 8)
SETTINGS = {"depth": 5, "rollout": 5, "candidates": 64, "noise": 0.3, "guard": 1.0, "pessimism": 0.0}
UPDATES = (20, 100, 400, 1000)
"""Updates of the ensembles that learned for less long."""


def reverie(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "reverie", *arguments], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def recorded(folder: Path, transitions: int) -> dict[str, Path]:
    """The dataset as files, one for each thing that is done to its actions."""
    root = folder / "minari"
    reverie("collect", "--environment", "Pendulum-v1", "--dataset", DATASET, "--transitions", str(transitions),
            "--root", str(root), "--behaviour", json.dumps(BEHAVIOUR), "--overwrite")  # fmt: skip
    os.environ["MINARI_DATASETS_PATH"] = str(root.resolve())
    episodes = list(minari.load_dataset(DATASET).iterate_episodes())
    arrays = {
        "observations": np.concatenate([e.observations[:-1] for e in episodes]),
        "rewards": np.concatenate([e.rewards for e in episodes]).astype(np.float32),
        "terminals": np.concatenate([e.terminations for e in episodes]),
        "timeouts": np.concatenate([e.truncations for e in episodes]),
        "final_observations": np.stack([e.observations[-1] for e in episodes]),
        "episode_lengths": np.array([len(e.rewards) for e in episodes], np.int32),
    }
    actions = np.concatenate([e.actions for e in episodes])
    print("mean return of the data:", np.mean([e.rewards.sum() for e in episodes]).round(1))
    files = {}
    for name, changed in {
        "true": actions,
        "shuffled": np.random.default_rng(0).permutation(actions),
        "reversed": -actions,
    }.items():
        files[name] = folder / f"{name}.npz"
        np.savez(files[name], actions=changed, **arrays)
    return files


def trained(config: str, source: Path, run: Path, *extra: str) -> Path:
    """The last checkpoint of a run on a file of the dataset; of one that has ended there before, its own."""
    if not (run / "ended").exists():
        reverie("fit", "--config", config, "--data.source", str(source), "--data.environment", "Pendulum-v1",
                "--run_dir", str(run), *extra)  # fmt: skip
        (run / "ended").touch()
    return max(run.glob("*/checkpoints/last.ckpt"))


def dynamics(source: Path, run: Path, *extra: str) -> Path:
    return trained("dynamics/mujoco", source, run, "--model.compile", "false", "--model.hidden", "[64,64]", *extra)


def error_of(checkpoint: Path, source: Path) -> float:
    """Mean held-out squared error of the networks that an ensemble predicts with."""
    agent = DynamicsEnsemble.from_checkpoint(checkpoint)
    agent.dynamics.load_state_dict(agent.predicting.state_dict())
    data = OfflineDataModule(str(source), environment="Pendulum-v1")
    batches = itertools.islice(data.val_dataloader(), data.validation_batches)  # the loader itself has no end
    return float(np.mean([agent.evaluate_losses(batch)["squared_error"].mean() for batch in batches]))


def compared(policy: Path, model: Path, episodes: int, output: Path, **changes: Any) -> dict[str, Any]:
    """Returns without and with lookahead on the same episodes, the mean difference, and its 95% interval."""
    settings = {**SETTINGS, **changes}
    flags = [part for name, value in settings.items() for part in (f"--lookahead.{name}", str(value))]
    reverie("evaluate", "--ckpt_path", str(policy), "--episodes", str(episodes), "--output", str(output),
            "--lookahead.model", str(model), *flags)  # fmt: skip
    base, ahead = (np.array(member["returns"]) for member in json.loads(output.read_text())["members"])
    low, high = bootstrap_interval(ahead - base)
    means = {"base": base.mean().round(1), "lookahead": ahead.mean().round(1)}
    return {**settings, **means, "gain": float((ahead - base).mean()), "interval": [low, high]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument(
        "--epochs", type=int, nargs="+", default=[6, 8, 15], help="of ATAC, 1,000 updates each; five are its warm start"
    )
    parser.add_argument("--transitions", type=int, default=20_000)
    parser.add_argument("--ensemble_epochs", type=int, default=30, help="of the ensembles, 1,000 updates each, at most")
    parser.add_argument("--folder", type=Path, default=Path("runs/lookahead"))
    parser.add_argument("--results", type=Path, default=RESULTS / "lookahead.json")
    parser.add_argument("--figures", type=Path, default=lookahead_figures.FIGURES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    files = recorded(folder, options.transitions)
    policies = {
        epochs: trained("atac/pendulum", files["true"], folder / f"atac-{epochs}", "--trainer.max_epochs", str(epochs),
                        "--evaluation.final_episodes", str(options.episodes))
        for epochs in sorted(options.epochs)
    }  # fmt: skip

    def play(model: Path, epochs: int = max(policies), **changes: Any) -> dict[str, Any]:
        return compared(policies[epochs], model, options.episodes, folder / "returns.json", **changes)

    # The gain, with the true model's and those of wrong ones beside it.
    most = ("--trainer.max_epochs", str(options.ensemble_epochs))
    models = {name: dynamics(source, folder / name, *most) for name, source in files.items()}
    content: dict[str, Any] = {
        "title": f"Pendulum-v1, {options.transitions:,} transitions",
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "origin": origin(
            [last.parents[1] for last in policies.values()], {name: content_hash(file) for name, file in files.items()}
        ),
        "command": "python " + " ".join(sys.argv),
        "episodes": options.episodes,
        "models": {name: play(model) for name, model in models.items()},
        "bases": [{"updates": 1000 * epochs, **play(models["true"], epochs)} for epochs in policies],
        "depth": [play(models["true"], depth=depth) for depth in DEPTHS],
        "error": [],
    }
    content["models"]["no guard"] = play(models["true"], guard=0.0)
    # Ensembles that learned for less long, and the one that learned to the end.
    early = [
        dynamics(files["true"], folder / f"early-{n}", "--trainer.max_epochs", "1", "--data.updates_per_epoch", str(n))
        for n in UPDATES
    ]
    for model in [*early, models["true"]]:
        content["error"].append({"error": error_of(model, files["true"]), **play(model)})
    content["error"].sort(key=lambda point: point["error"])
    options.results.parent.mkdir(parents=True, exist_ok=True)
    options.results.write_text(json.dumps(content, indent=1, default=float) + "\n")
    lookahead_figures.gains(content, options.figures)


if __name__ == "__main__":
    main()
