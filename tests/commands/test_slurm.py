"""Jobs of SLURM: who they are, and the signal after which they are queued again, with its variables and a stand-in."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from fit_command import write_dataset
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from pytorch_lightning import Callback, Trainer

import reverie
from commands import run_directory
from commands.slurm import requeue, slurm_job, slurm_tasks, with_slurm

TINY = [
    *("--model", "ATAC", "--model.hidden", "[4]", "--data", "OfflineDataModule", "--data.source", "tiny.npz"),
    *("--data.updates_per_epoch", "4", "--data.batch_size", "4", "--trainer.accelerator", "cpu"),
    *("--trainer.max_epochs", "2", "--trainer.logger", "false"),
]

JOB = {
    "SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost",
}  # fmt: skip


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)


def scontrol(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> Path:
    """Put a program of this name before all others; it writes its arguments down, then does as it is told."""
    program = folder / "bin/scontrol"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {folder}/asked\n{body}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return folder / "asked"


def test_a_job_is_told_from_what_a_person_types(job: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert slurm_job() == "17"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "16")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert slurm_job() == "16_3"
    (environment,) = with_slurm([])
    assert isinstance(environment, SLURMEnvironment)
    assert not environment.auto_requeue
    own = LightningEnvironment()
    assert with_slurm([own]) == [own]
    # Tasks that SLURM has started would choose a folder each.
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert slurm_tasks() == 2
    with pytest.raises(ValueError, match="set REVERIE_RUN_DIR to one folder for all ranks"):
        run_directory.choose(tmp_path, None)
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    assert slurm_job() is None
    assert slurm_tasks() == 1
    assert with_slurm([]) == []


class Warn(Callback):
    """SLURM's signal in the middle of update 2, in the first start of a job."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 2 and "SLURM_RESTART_COUNT" not in os.environ:
            os.kill(os.getpid(), signal.SIGUSR1)


def test_the_signal_before_the_end_keeps_the_update_and_queues_the_job_again(
    job: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path / "cache"))
    write_dataset(tmp_path / "tiny.npz")
    asked = scontrol(tmp_path, monkeypatch, "exit 0")
    monkeypatch.setenv("REVERIE_RUN_DIR", str(tmp_path / "job-17"))
    last = tmp_path / "job-17/checkpoints/last.ckpt"
    arguments = [
        "fit",
        *TINY,
        "--ckpt_path",
        "last",
        "--trainer.callbacks+",
        "test_slurm.Warn",
        "--trust",
        "test_slurm",
    ]
    with pytest.raises(SystemExit) as leaving:
        reverie.main(arguments)
    assert leaving.value.code == 128 + signal.SIGUSR1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("reverie: stopped by SIGUSR1; to go on from update 3: reverie fit ")
    assert said.endswith("; SLURM's job 17 is queued again")
    assert asked.read_text() == "requeue 17\n"
    assert torch.load(last, weights_only=True)["global_step"] == 3
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    # SLURM starts the same command again.
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    reverie.main(arguments)
    assert torch.load(last, weights_only=True)["global_step"] == 8
    assert asked.read_text() == "requeue 17\n"


def test_a_queue_that_refuses_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scontrol(tmp_path, monkeypatch, "echo 'Requested operation is presently disabled' >&2; exit 1")
    assert requeue("17") == "SLURM's job 17 is not queued again: Requested operation is presently disabled"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "No such file" in requeue("17")
