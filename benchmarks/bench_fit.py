"""Time that Lightning, callbacks, sampling and the guard against NaN add to one ATAC update at the paper's size.

    python benchmarks/bench_fit.py [--updates 200] [--rounds 5]

Times `Trainer.fit` with the callbacks of every run against a bare loop over the same batches and the same update, in
turn, on a random dataset of Hopper's size; and with each answer of the guard, `--nonfinite stop` and `skip`, against
the same run without it. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from measured_by import tell

import commands.quiet  # noqa: F401 - must come before torch

# isort: split
import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from callbacks.checkpointing import ExactResume
from callbacks.mlflow.logger import MLflowLogger
from callbacks.mlflow.run import MLflowRun
from callbacks.nonfinite_updates import Answer, NonfiniteUpdates
from callbacks.progress import ProgressBar
from callbacks.throughput import Throughput
from datamodules.offline import OfflineDataModule
from modules.agent.warm_start import WarmStart
from modules.algorithms.atac import ATAC

ANSWERS: tuple[Answer, ...] = ("stop", "skip")
"""Of the guard; `stop` is the default of `reverie fit`."""


class Stopwatch(Callback):
    """Seconds from the first to the last update of a run, without set-up and teardown."""

    seconds = 0.0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Start at the first update, stop at the latest."""
        if pl_module.updates == 1:  # type: ignore[attr-defined]
            self.start = time.perf_counter()
        self.seconds = time.perf_counter() - self.start


def write_dataset(path: Path, steps: int = 100_000, length: int = 500) -> None:
    """Random transitions with 11 features and 3 actions."""
    rng = np.random.default_rng(0)
    timeouts = np.zeros(steps, bool)
    timeouts[length - 1 :: length] = True
    np.savez(
        path,
        observations=rng.normal(size=(steps, 11)).astype(np.float32),
        actions=rng.uniform(-1, 1, (steps, 3)).astype(np.float32),
        rewards=rng.normal(size=steps).astype(np.float32),
        terminals=np.zeros(steps, bool),
        timeouts=timeouts,
        final_observations=rng.normal(size=(steps // length, 11)).astype(np.float32),
        episode_lengths=np.full(steps // length, length, np.int32),
    )


def time_fit(data: OfflineDataModule, updates: int, folder: Path, *guard: Callback) -> float:
    """Milliseconds per update inside `Trainer.fit`."""
    folder.mkdir()
    stopwatch = Stopwatch()
    logger = MLflowLogger("bench", f"sqlite:///{folder}/mlflow.db", run_directory=str(folder))
    trainer = Trainer(
        max_steps=updates, accelerator="cpu", devices=1, logger=logger, default_root_dir=str(folder),
        enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0, log_every_n_steps=100,
        limit_val_batches=0, callbacks=[*guard, ProgressBar(), MLflowRun(), Throughput(), ExactResume(), stopwatch],
    )  # fmt: skip
    trainer.fit(ATAC(data.spaces, warm_start=WarmStart(0)), datamodule=data)
    return 1e3 * stopwatch.seconds / (updates - 1)


def time_loop(data: OfflineDataModule, updates: int) -> float:
    """Milliseconds per bare `agent.update(batch)` on one batch that is already there."""
    agent = ATAC(data.spaces, warm_start=WarmStart(0))
    batch = next(iter(data.train_dataloader()))
    agent.update(batch)
    start = time.perf_counter()
    for _ in range(updates - 1):
        agent.update(batch)
        agent.advance()
    return 1e3 * (time.perf_counter() - start) / (updates - 1)


def time_sampling(data: OfflineDataModule, updates: int) -> float:
    """Milliseconds per batch drawn."""
    batches = iter(data.train_dataloader())
    next(batches)
    start = time.perf_counter()
    for _ in range(updates - 1):
        next(batches)
    return 1e3 * (time.perf_counter() - start) / (updates - 1)


def main() -> None:
    """Time both in turn and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[tuple[float, ...]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["REVERIE_CACHE"] = str(folder / "cache")
        write_dataset(folder / "random.npz")
        data = OfflineDataModule(str(folder / "random.npz"), updates_per_epoch=options.updates)
        data.setup("fit")
        for round_index in range(options.rounds):
            run = folder / f"round{round_index}"
            run.mkdir()
            times = (time_loop(data, options.updates), time_sampling(data, options.updates))
            fits = [time_fit(data, options.updates, run / "bare")]
            fits += [time_fit(data, options.updates, run / answer, NonfiniteUpdates(answer)) for answer in ANSWERS]
            rows.append((*times, *fits))
    loop, sampling, bare, stop = (statistics.median(r[i] for r in rows) for i in range(4))
    shares = [(r[3] - r[0] - r[1]) / r[3] for r in rows]
    guards = {answer: statistics.median(r[3 + n] / r[2] - 1.0 for r in rows) for n, answer in enumerate(ANSWERS)}
    tell(
        {
            "benchmark": "share of a fit step that is neither update nor sampling",
            "update_ms": round(loop, 2),
            "sampling_ms": round(sampling, 3),
            "fit_ms": round(stop, 2),
            "fit_without_guard_ms": round(bare, 2),
            **{f"guard_{answer}_share": round(share, 4) for answer, share in guards.items()},
            "lightning_share_median": round(statistics.median(shares), 4),
            "sampling_share_of_update": round(sampling / loop, 4),
            "rounds": options.rounds,
            "updates": options.updates,
            "threads": 1,
        }
    )


if __name__ == "__main__":
    main()
