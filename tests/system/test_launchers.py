"""Jobs of two processes that are stopped, killed and restarted, by our own launcher and by `torchrun`."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fit_command import write_dataset
from forked import HERE, ROOT
from mlflow import MlflowClient
from pytorch_lightning import Callback, Trainer

RANKS = ("--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp")


class KillOnce(Callback):
    """Ends one of the processes, in the first attempt of a job."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        first = os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0"
        if first and trainer.global_rank == 1 and trainer.global_step == 26:
            os.kill(os.getpid(), signal.SIGKILL)


def start(folder: Path, launcher: tuple[str, ...], *arguments: str, **variables: str) -> subprocess.Popen[str]:
    data = folder / "tiny.npz"
    if not data.exists():
        write_dataset(data)
    command = [
        sys.executable, *launcher, "-m", "reverie", "fit", "--model", "ATAC", "--model.hidden", "[16,16]",
        "--model.warm_start.updates", "5", "--data", "OfflineDataModule", "--data.source", str(data),
        "--data.batch_size", "32", "--trainer.log_every_n_steps", "5", *RANKS, *arguments,
    ]  # fmt: skip
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)]),
        "REVERIE_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


def check_page(folder: Path, status: str) -> list[int]:
    """The steps of a curve of the only run."""
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (page,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert page.info.status == status
    return [point.step for point in client.get_metric_history(page.info.run_id, "throughput/updates_per_second")]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_signal_stops_both_processes_behind_one_update(number: signal.Signals, tmp_path: Path) -> None:
    epochs = ("--trainer.max_epochs", "200", "--data.updates_per_epoch", "50")
    job = start(tmp_path, (), *epochs, "--run_dir", "runs/x")
    began = time.monotonic()
    while not list(tmp_path.glob("runs/x/*/checkpoints/last.ckpt")):
        assert job.poll() is None
        assert time.monotonic() - began < 100
        time.sleep(0.1)
    job.send_signal(number)
    _, said = job.communicate(timeout=200)
    assert job.returncode == 128 + number
    assert re.search(rf"stopped by {number.name}; to go on from update \d+: reverie fit --config", said)
    assert "Traceback" not in said
    steps = check_page(tmp_path, "KILLED")
    assert steps == list(range(5, 5 * len(steps) + 1, 5))


@pytest.mark.slow
def test_torchrun_restarts_a_job_from_its_checkpoint_and_never_overwrites_it(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launcher = ("-m", "torch.distributed.run", "--master-port", port, "--nproc-per-node", "2", "--max-restarts", "1")
    arguments = ("--trainer.max_epochs", "4", "--data.updates_per_epoch", "10", "--trainer.callbacks+")
    job = start(
        tmp_path, launcher, *arguments, "test_launchers.KillOnce", "--ckpt_path", "last", REVERIE_RUN_DIR="runs/job"
    )
    _, said = job.communicate(timeout=200)
    assert job.returncode == 0, said
    assert said.count("runs/job has no checkpoint yet: the run starts there") == 1
    assert check_page(tmp_path, "FINISHED") == list(range(5, 41, 5))
    before = (tmp_path / "runs/job/checkpoints/last.ckpt").read_bytes()
    again = start(tmp_path, (), *arguments, "test_launchers.KillOnce", RANK="0", REVERIE_RUN_DIR="runs/job")
    _, said = again.communicate(timeout=200)
    assert again.returncode == 2
    assert "runs/job holds a run, which would be overwritten: --ckpt_path last continues it" in said
    assert (tmp_path / "runs/job/checkpoints/last.ckpt").read_bytes() == before
