"""`fit --ckpt_path last` after kill -9 continues bit for bit, through the command line."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import torch
from fit_command import fit, load

SCHEDULE = ("--data.updates_per_epoch", "20", "--checkpoint.every_n_updates", "10", "--trainer.max_epochs", "4")


def assert_equal(a: Any, b: Any, where: str = "") -> None:
    """Bit-for-bit equality of nested containers of tensors."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}/{i}")
    else:
        assert a == b or (a != a and b != b), f"{where}: {a} != {b}"


def test_kill_9_and_resume_equals_a_run_that_was_never_stopped(tmp_path: Path) -> None:
    """80 updates with the warm start ending at 30, against 27 + kill + the rest: the switch lies behind the resume."""
    whole = fit(tmp_path, "whole", *SCHEDULE, "--run_dir", "runs/whole")
    assert whole.returncode == 0, whole.stderr
    broken = fit(tmp_path, "none", *SCHEDULE, "--run_dir", "runs/broken", kill_after=27)
    assert broken.returncode == -signal.SIGKILL
    resumed = fit(tmp_path, "resumed", *SCHEDULE, "--run_dir", "runs/broken", "--ckpt_path", "last")
    assert resumed.returncode == 0, resumed.stderr
    a, b = load(tmp_path / "whole/rank0.pt"), load(tmp_path / "resumed/rank0.pt")
    assert a["updates"] == b["updates"] == a["global_step"] == b["global_step"] == 80
    assert len(b["batches"]) == 60  # from update 20, the last checkpoint before the kill
    assert_equal(a["batches"][20:], b["batches"], "batches")
    # What is logged after the resume; before its first logging there is nothing to compare.
    assert_equal(a["curve"][24:], b["curve"][4:], "curve")
    for key in ("state", "optimizers", "phase", "rng", "rank_state"):
        assert_equal(a[key], b[key], key)
    assert len(list((tmp_path / "runs/broken").iterdir())) == 1  # the same run folder goes on


def test_resume_behind_the_switch_keeps_the_slow_policy(tmp_path: Path) -> None:
    assert fit(tmp_path, "whole", *SCHEDULE, "--run_dir", "runs/whole").returncode == 0
    assert fit(tmp_path, "none", *SCHEDULE, "--run_dir", "runs/broken", kill_after=57).returncode == -signal.SIGKILL
    assert fit(tmp_path, "resumed", *SCHEDULE, "--run_dir", "runs/broken", "--ckpt_path", "last").returncode == 0
    a, b = load(tmp_path / "whole/rank0.pt"), load(tmp_path / "resumed/rank0.pt")
    assert b["optimizers"][0]["param_groups"][0]["lr"] == 1e-3
    assert b["phase"] == "training"
    for key in ("state", "optimizers", "rng", "rank_state"):
        assert_equal(a[key], b[key], key)


def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path: Path) -> None:
    schedule = ("--data.updates_per_epoch", "10", "--trainer.max_epochs", "1")
    assert fit(tmp_path, "first", *schedule, "--run_dir", "runs/a").returncode == 0
    wider = fit(
        tmp_path, "second", *schedule, "--run_dir", "runs/a", "--ckpt_path", "last", "--model.hidden", "[24,16]"
    )
    assert wider.returncode == 2
    assert "does not fit the configured model" in wider.stderr
    assert "Traceback" not in wider.stderr
