"""Starts `reverie fit` in a process of its own, kills and resumes it; by itself on a tiny dataset."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from forked import HERE, ROOT, run_reverie, start_reverie


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


def recorded_fit(
    folder: Path, record: str, *arguments: str, kill_after: int = 0, copy_after: int = 0,
    new_python: Literal["", "first", "second"] = "",
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """Run `reverie fit` in `folder`; the recorder writes to `folder/record`.

    Args:
        folder: working directory.
        record: folder of the recorder.
        arguments: of `fit`.
        kill_after: updates after which the process kills itself; 0 for never.
        copy_after: updates after which `runs/whole` is copied to `runs/cut`; 0 for never.
        new_python: the process that is a new Python, whose hashes have a seed of their own, instead of being forked.
    """
    arguments_of_recorder = {"folder": str(folder / record), "kill_after": kill_after, "copy_after": copy_after}
    recorder = json.dumps({"class_path": "recorder.Recorder", "init_args": arguments_of_recorder})
    environment = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)]),
        "REVERIE_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    command = ["fit", *arguments, "--trainer.callbacks+", recorder]
    if new_python == "first":
        return start_reverie(command, folder, environment)
    return run_reverie(command, folder, environment, fork_second=new_python != "second")


def fit(
    folder: Path, record: str, *arguments: str, kill_after: int = 0, new_python: Literal["", "first", "second"] = ""
) -> subprocess.CompletedProcess[str]:
    """`recorded_fit` of ATAC on the tiny dataset."""
    data = folder / "tiny.npz"
    if not data.exists():
        write_dataset(data)
    return recorded_fit(
        folder, record,
        "--model", "ATAC", "--model.hidden", "[16,16]", "--model.actor_lr", "1e-3",
        "--model.warm_start.updates", "30",
        "--data", "OfflineDataModule", "--data.source", str(data), "--data.batch_size", "32",
        "--data.normalize_observation", "true",
        *(() if "--trainer.logger" in arguments else ("--trainer.logger", "false")),
        "--trainer.log_every_n_steps", "5", *arguments, kill_after=kill_after, new_python=new_python,
    )  # fmt: skip


def whole_and_resumed(folder: Path, *arguments: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Records of 40 updates, and of what goes on from the files that a kill after 26 of them would leave.

    A checkpoint is due every 3 updates. What is the same for every algorithm is checked here.
    """
    whole = recorded_fit(folder, "whole", *arguments, "--run_dir", "runs/whole", copy_after=26)
    assert whole.returncode == 0, whole.stderr
    resumed = recorded_fit(folder, "resumed", *arguments, "--run_dir", "runs/cut", "--ckpt_path", "last")
    assert resumed.returncode == 0, resumed.stderr
    assert "not exactly" not in resumed.stderr
    a, b = load(folder / "whole/rank0.pt"), load(folder / "resumed/rank0.pt")
    assert a["updates"] == b["updates"] == 40
    assert len(b["batches"]) == 16  # from update 24, the last checkpoint before the kill
    for first, second in zip(a["batches"][24:], b["batches"], strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert a["curve"][-10:] == b["curve"][-10:]
    assert a["state"].keys() == b["state"].keys()
    assert all(torch.equal(a["state"][name], b["state"][name]) for name in a["state"])
    for mine, theirs in zip(a["optimizers"], b["optimizers"], strict=True):
        for key, state in mine["state"].items():
            assert all(torch.equal(value, theirs["state"][key][name]) for name, value in state.items())
    assert all(torch.equal(x, y) for x, y in zip(a["rng"], b["rng"], strict=True))
    return a, b


def on_two_ranks(folder: Path, *arguments: str, atol: float = 0.0) -> list[dict[str, Any]]:
    """Records of 20 updates on two ranks with experience of their own, whose weights are equal."""
    done = recorded_fit(
        folder, "ranks", *arguments,
        "--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu",
        "--trainer.max_epochs", "2", "--data.capacity", "400",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ranks = [load(folder / f"ranks/rank{r}.pt") for r in range(2)]
    assert ranks[0]["updates"] == ranks[1]["updates"] == 20
    for name, value in ranks[0]["state"].items():
        torch.testing.assert_close(value, ranks[1]["state"][name], rtol=0, atol=atol)
    return ranks


def load(path: Path) -> dict[str, Any]:
    """The recorder's file."""
    content: dict[str, Any] = torch.load(path, weights_only=False)
    return content
