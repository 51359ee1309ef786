"""Cost of the checks on checkpoints, of the log on disk, and of the checks on every step of an environment.

    python benchmarks/bench_files.py [--repeats 7]

Prints one JSON line per case, medians of the repeats. A checkpoint of half a GB is read in turns by torch alone and
with everything that reverie looks at. Records of 20 metrics are put into the log of a run whose tracking server is
away. An environment is stepped in turns bare and protected.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measured_by import tell

import commands.quiet  # noqa: F401 - must come before torch

# isort: split
import gymnasium as gym
import numpy as np
import torch
from pytorch_lightning import Trainer

from callbacks.mlflow.writer import BackgroundWriter
from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.restarting import Protection, Restarting
from modules.agent.checkpoint_file import read_checkpoint
from modules.algorithms.atac import ATAC
from modules.batch import Spaces

RECORDS, METRICS, STEPS = 50_000, 20, 50_000


class Away:
    """A tracking server that refuses every connection."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def refuse(*_: Any, **__: Any) -> None:
            raise ConnectionError("away")

        return refuse


def seconds(call: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_turns(repeats: int, *calls: Callable[[], Any]) -> list[float]:
    """Median seconds of each call, timed in turns after one turn that does not count."""
    turns = [[seconds(call) for call in calls] for _ in range(repeats + 1)][1:]
    return [statistics.median(column) for column in zip(*turns, strict=True)]


def checkpoint(folder: Path, repeats: int) -> dict[str, Any]:
    """Reading half a GB with and without the checks."""
    agent = ATAC(
        Spaces(gym.spaces.Box(-1, 1, (3,), np.float32), gym.spaces.Box(-1, 1, (1,), np.float32)), hidden=[5000] * 2
    )
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(agent)
    path = folder / "large.ckpt"
    trainer.save_checkpoint(path)
    bare, checked = in_turns(
        repeats, lambda: torch.load(path, "cpu", weights_only=True), lambda: read_checkpoint(path, "cpu")
    )
    size = path.stat().st_size
    return {
        "benchmark": "reading a checkpoint",
        "MB": round(size / 1e6),
        "torch alone, s": round(bare, 2),
        "with all checks, s": round(checked, 2),
    }


def log(folder: Path, repeats: int) -> dict[str, Any]:
    """Records put while the server is away, and made sure of before a checkpoint."""
    puts, secures = [], []
    for repeat in range(repeats):
        place = folder / f"log{repeat}"
        place.mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the server is away
            writer = BackgroundWriter(Away(), place)
            record = {"kind": "metrics", "run_id": "a", "values": [[f"metric{i}", 0.5, 0, 1] for i in range(METRICS)]}
            puts.append(seconds(lambda writer=writer, record=record: [writer.put(record) for _ in range(RECORDS)]))
            secures.append(seconds(writer.secure))
    return {
        "benchmark": f"{RECORDS:,} records of {METRICS} metrics while the tracking server is away",
        "one record, us": round(1e6 * statistics.median(puts) / RECORDS, 1),
        "before a checkpoint, s": round(statistics.median(secures), 3),
    }


def steps(repeats: int) -> dict[str, Any]:
    """CartPole bare and protected."""
    spec = EnvironmentSpec("CartPole-v1")
    bare, protected = spec.make(), Restarting(spec.make, Protection(), spec.id)

    def play(env: gym.Env) -> None:
        env.reset(seed=0)
        for _ in range(STEPS):
            _, _, terminated, truncated, _ = env.step(0)
            if terminated or truncated:
                env.reset()

    plain, checked = (1e6 * s / STEPS for s in in_turns(repeats, lambda: play(bare), lambda: play(protected)))
    return {
        "benchmark": "one step of CartPole",
        "bare, us": round(plain, 2),
        "checked and protected, us": round(checked, 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    tell(steps(options.repeats))
    with tempfile.TemporaryDirectory() as folder:
        tell(checkpoint(Path(folder), options.repeats))
        tell(log(Path(folder), options.repeats))


if __name__ == "__main__":
    main()
