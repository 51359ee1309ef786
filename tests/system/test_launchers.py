"""Jobs of two processes that are stopped, killed and restarted, by our own launcher and by `torchrun`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from equal import assert_equal
from fit_command import write_dataset
from forked import HERE, PATIENCE, ROOT, run_reverie
from mlflow import MlflowClient
from ports import free_port
from pytorch_lightning import Callback, Trainer

PATH = os.pathsep.join([str(ROOT), str(HERE), str(Path(__file__).parent)])
RANKS = ("--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp")


class KillOnce(Callback):
    """Ends one of the processes, in the first attempt of a job."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        first = os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0"
        if first and trainer.global_rank == 1 and trainer.global_step == 26:
            os.kill(os.getpid(), signal.SIGKILL)


def fit(folder: Path) -> list[str]:
    """Arguments of `reverie` that train in a folder."""
    data = folder / "tiny.npz"
    if not data.exists():
        write_dataset(data)
    return [
        "fit", "--model", "ATAC", "--model.hidden", "[16,16]", "--model.warm_start.updates", "5", "--data",
        "OfflineDataModule", "--data.source", "tiny.npz", "--data.batch_size", "32", "--trainer.log_every_n_steps", "5",
        *RANKS,
    ]  # fmt: skip


def variables_of(folder: Path) -> dict[str, str]:
    return {"PYTHONPATH": PATH, "REVERIE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}


def start(folder: Path, launcher: tuple[str, ...], *arguments: str, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, *launcher, "-m", "reverie", *fit(folder), *arguments]
    environment = os.environ | variables_of(folder) | variables
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
    epochs = ("--trainer.max_epochs", "1000", "--data.updates_per_epoch", "50")
    job = start(tmp_path, (), *epochs, "--run_dir", "runs/x")
    began = time.monotonic()
    try:
        while not list(tmp_path.glob("runs/x/*/checkpoints/last.ckpt")):
            assert job.poll() is None
            assert time.monotonic() - began < PATIENCE
            time.sleep(0.1)
        job.send_signal(number)
        _, said = job.communicate(timeout=PATIENCE)
    finally:
        job.kill()  # its second process ends with it
    assert job.returncode == 128 + number
    assert re.search(rf"stopped by {number.name}; to go on from update \d+: reverie fit --config", said)
    assert "Traceback" not in said
    steps = check_page(tmp_path, "KILLED")
    assert steps == list(range(5, 5 * len(steps) + 1, 5))


@pytest.mark.long
@pytest.mark.timeout(900)  # three jobs of two processes each
def test_torchrun_restarts_a_killed_job_which_ends_with_the_weights_of_one_that_was_never_killed(
    tmp_path: Path,
) -> None:
    launcher = ("-m", "torch.distributed.run", "--master-port", str(free_port()), "--nproc-per-node", "2")
    arguments = ("--trainer.max_epochs", "4", "--data.updates_per_epoch", "10")
    killed = ("--trainer.callbacks+", "test_launchers.KillOnce")
    job = start(
        tmp_path, (*launcher, "--max-restarts", "1"), *arguments, *killed, "--ckpt_path", "last",
        REVERIE_RUN_DIR="runs/job",
    )  # fmt: skip
    _, said = job.communicate(timeout=PATIENCE)
    assert job.returncode == 0, said
    assert "process 1 of 2" not in said  # torchrun says of what it has died, and ended the other one
    assert said.count("runs/job has no checkpoint yet: the run starts there") == 1
    assert check_page(tmp_path, "FINISHED") == list(range(5, 41, 5))
    # One that nothing has happened to.
    other = tmp_path / "other"
    other.mkdir()
    done = run_reverie([*fit(other), *arguments], other, variables_of(other) | {"REVERIE_RUN_DIR": "runs/job"})
    assert done.returncode == 0, done.stderr
    files = [folder / "runs/job/checkpoints/last.ckpt" for folder in (tmp_path, other)]
    mine, whole = (torch.load(file, weights_only=True) for file in files)
    assert whole["global_step"] == 40
    for entry in ("global_step", "state_dict", "optimizer_states", "agent"):
        assert_equal(mine[entry], whole[entry], entry)
    # Whoever forgets to go on does not lose it.
    before = files[0].read_bytes()
    again = run_reverie(
        [*fit(tmp_path), *arguments], tmp_path, variables_of(tmp_path) | {"REVERIE_RUN_DIR": "runs/job"}
    )
    assert again.returncode == 2
    assert "runs/job holds a run, which would be overwritten: --ckpt_path last continues it" in again.stderr
    assert files[0].read_bytes() == before
