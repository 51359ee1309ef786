"""Starts `reverie fit` in a process of its own, on a tiny dataset without an environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def write_dataset(path: Path, episodes: int = 30, length: int = 10) -> Path:
    """Random episodes of 3 features and 2 actions, every other one terminal at its end."""
    rng, steps = np.random.default_rng(0), episodes * length
    terminals, timeouts = np.zeros(steps, bool), np.zeros(steps, bool)
    terminals[length - 1 :: 2 * length] = True
    timeouts[2 * length - 1 :: 2 * length] = True
    np.savez(
        path,
        observations=rng.normal(size=(steps, 3)).astype(np.float32),
        actions=rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        rewards=rng.normal(size=steps).astype(np.float32),
        terminals=terminals,
        timeouts=timeouts,
        final_observations=rng.normal(size=(episodes, 3)).astype(np.float32),
        episode_lengths=np.full(episodes, length, np.int32),
    )
    return path


def fit(folder: Path, record: str, *arguments: str, kill_after: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `reverie fit` on the tiny dataset in `folder`; the recorder writes to `folder/record`."""
    data = folder / "tiny.npz"
    if not data.exists():
        write_dataset(data)
    arguments_of_recorder = {"folder": str(folder / record), "kill_after": kill_after}
    recorder = json.dumps({"class_path": "recorder.Recorder", "init_args": arguments_of_recorder})
    command = [
        sys.executable, "-m", "reverie", "fit",
        "--model", "ATAC", "--model.hidden", "[16,16]", "--model.actor_lr", "1e-3",
        "--model.warm_start_updates", "30",
        "--data", "OfflineDataModule", "--data.source", str(data), "--data.batch_size", "32",
        "--data.normalize_observation", "true",
        "--trainer.logger", "false", "--trainer.log_every_n_steps", "5", "--trainer.callbacks+", recorder,
        *arguments,
    ]  # fmt: skip
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)]),
        "REVERIE_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=110)


def load(path: Path) -> dict[str, Any]:
    """What the recorder wrote."""
    content: dict[str, Any] = torch.load(path, weights_only=False)
    return content
