"""Hashes of what fifty updates of every preset algorithm log and learn: equal before and after a change of structure.

    python benchmarks/loss_hashes.py > before.txt    # and again after the change; `diff` shows what moved
    python benchmarks/loss_hashes.py dreamer/catch   # some of the presets below alone
    python benchmarks/loss_hashes.py dreamer/catch -- --verify_updates 1    # with further arguments of `reverie fit`

A line has the hash of all losses and other metrics of the updates, whatever their names are, and that of all weights
behind them, whatever their modules are called. One number that differs in its last bit gives another hash.
"""

from __future__ import annotations

import csv
import hashlib
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests/helpers"))
from fit_command import write_dataset  # noqa: E402 - the random dataset that tests of whole runs learn from
from forked import run_reverie  # noqa: E402 - which imports everything once, for all presets

UPDATES = 50
PATIENCE = 1800.0
"""Seconds until a preset is given up."""
PRESETS = {
    "atac/pendulum": ("--model.warm_start.updates", "25"),  # both of its phases
    "atac/pendulum_moe": ("--model.warm_start.updates", "25"),
    # Its rule that ends the cloning needs a validation before the game.
    "armor/mujoco": (
        "--model.compile",
        "false",
        "--model.warm_start.updates",
        "25",
        "--data.updates_per_epoch",
        "10",
    ),
    "td3_bc/mujoco": ("--model.compile", "false"),
    "iql/mujoco": ("--model.compile", "false"),
    "cql/mujoco": ("--model.compile", "false"),
    "cloning/mujoco": ("--model.compile", "false"),
    "sac/pendulum": (),
    "sac/cartpole": (),
    "dreamer/catch": (),
    "dreamer/pendulum": (),
    "dreamer/cartpole": (),
    "r2d2/tmaze": (),
    "r2d2/cartpole_masked": (),
    "a2c/cartpole": (),
    "a2c/two_catch": (),
    "ppo/catch": (),
    "simple/catch": (),
    "merlin/delayed_cue": (),
    "muzero/cartpole": (),
    "moe/compositional": (),
    "moe/mixture": (),
}
OFFLINE = ("atac", "armor", "td3_bc", "iql", "cql", "cloning")
"""Folders of presets that learn from a dataset alone."""
SHORT_EVALUATION = ("--evaluation.episodes", "1", "--evaluation.final_episodes", "1", "--evaluation.parallel", "1")


def run(preset: str, folder: Path, extra: Sequence[str]) -> None:
    """Train a preset for so many updates in a folder, without MLflow; `extra` arguments come last."""
    command = [
        "fit", "--config", preset, *PRESETS[preset], "--trainer.max_steps", str(UPDATES),
        "--trainer.log_every_n_steps", "1", "--trainer.logger",
        "pytorch_lightning.loggers.CSVLogger", "--trainer.logger.save_dir", str(folder / "log"),
    ]  # fmt: skip
    if preset.startswith(OFFLINE):
        write_dataset(folder / "random.npz", episodes=60, length=25)
        command += ["--data.source", str(folder / "random.npz")]
    elif not preset.startswith("moe"):
        command += SHORT_EVALUATION
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests/helpers")])
    environment = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "REVERIE_CACHE": str(folder / "cache")}
    done = run_reverie([*command, *extra], folder, environment, PATIENCE)
    if done.returncode:
        raise SystemExit(f"{preset}: {done.stderr[-2000:]}{done.stdout[-2000:]}")


def metrics_hash(folder: Path) -> str:
    """Of the sorted hashes of the columns that an agent logs, measured times left out."""
    (path,) = folder.glob("log/**/metrics.csv")
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row["step"]]
    columns = [name for name in rows[0] if name not in ("step", "epoch") and "/" in name]
    series = ("\n".join(row[name] for row in rows if row[name]) for name in columns if not timed(name))
    return digest(*sorted(digest(values) for values in series))


def timed(name: str) -> bool:
    """Whether a metric measures time, or the machine."""
    return name.startswith(("throughput", "time", "system", "collection"))


def weights_hash(folder: Path) -> str:
    """Of the sorted hashes of all floating tensors of the last checkpoint's agent."""
    import torch

    (path,) = folder.glob("**/last.ckpt")
    state = torch.load(path, weights_only=True)["state_dict"]
    tensors = [x for x in state.values() if isinstance(x, torch.Tensor) and x.is_floating_point()]
    return digest(*sorted(digest(str(tuple(x.shape)), x.numpy().tobytes().hex()) for x in tensors))


def digest(*texts: str) -> str:
    """The first sixteen letters of a SHA-256."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def main(argv: Sequence[str]) -> None:
    """Print a line for each of these presets, or for all; what stands after `--` is given to every `reverie fit`."""
    cut = list(argv).index("--") if "--" in argv else len(argv)
    presets, extra = argv[:cut], argv[cut + 1 :]
    if unknown := [name for name in presets if name not in PRESETS]:
        sys.exit(f"no hashes of {', '.join(unknown)}; there are those of {', '.join(PRESETS)}")
    for preset in presets or PRESETS:
        with tempfile.TemporaryDirectory() as name:
            run(preset, Path(name), extra)
            print(f"{preset:22} metrics {metrics_hash(Path(name))}  weights {weights_hash(Path(name))}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
