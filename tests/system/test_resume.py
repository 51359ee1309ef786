"""`fit --ckpt_path last` after kill -9 continues bit for bit, through the command line."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any, Literal

import pytest
from equal import assert_equal
from fit_command import fit, load
from mlflow import MlflowClient

SCHEDULE = ("--data.updates_per_epoch", "20", "--checkpoint.every_n_updates", "10", "--trainer.max_epochs", "4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that was never stopped: 80 updates, the warm start ending at 30."""
    folder = tmp_path_factory.mktemp("resume")
    whole = fit(folder, "whole", *SCHEDULE, "--run_dir", "runs/whole")
    assert whole.returncode == 0, whole.stderr
    return folder


def kill_and_resume(
    folder: Path, updates: int, *arguments: str, new_python: Literal["", "first"] = ""
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Records of the whole run, and of the resumed part of one that was killed after so many updates."""
    name = f"runs/killed-{updates}"
    broken = fit(folder, "none", *SCHEDULE, *arguments, "--run_dir", name, kill_after=updates)
    assert broken.returncode == -signal.SIGKILL
    resumed = fit(
        folder, f"resumed-{updates}", *SCHEDULE, *arguments, "--run_dir", name, "--ckpt_path", "last",
        new_python=new_python,
    )  # fmt: skip
    assert resumed.returncode == 0, resumed.stderr
    assert len(list((folder / name).iterdir())) == 1  # the same run folder goes on
    return load(folder / "whole/rank0.pt"), load(folder / f"resumed-{updates}/rank0.pt")


@pytest.mark.long
def test_kill_9_and_resume_equals_a_run_that_was_never_stopped(folder: Path) -> None:
    """27 updates + kill + the rest: the switch to training lies behind the resume. MLflow has every point once.

    The rest runs in a new Python, where sets have another order.
    """
    a, b = kill_and_resume(folder, 27, "--trainer.logger", "MLflowLogger", new_python="first")
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (page,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert page.info.status == "FINISHED"
    names = [name for name in page.data.metrics if name.startswith(("atac/", "throughput/"))]
    curves = {name: [p.step for p in client.get_metric_history(page.info.run_id, name)] for name in names}
    assert list(range(5, 81, 5)) in curves.values()
    assert curves == {name: list(range(steps[0], steps[-1] + 1, 5)) for name, steps in curves.items()}
    assert a["updates"] == b["updates"] == a["global_step"] == b["global_step"] == 80
    assert len(b["batches"]) == 60  # from update 20, the last checkpoint before the kill
    assert_equal(a["batches"][20:], b["batches"], "batches")
    # What is logged after the resume; before its first logging there is nothing to compare.
    assert_equal(a["curve"][24:], b["curve"][4:], "curve")
    for key in ("state", "optimizers", "phase", "rng", "rank_state"):
        assert_equal(a[key], b[key], key)


@pytest.mark.long
def test_resume_behind_the_switch_keeps_the_slow_policy(folder: Path) -> None:
    a, b = kill_and_resume(folder, 57)
    assert b["optimizers"][0]["param_groups"][0]["lr"] == 1e-3
    assert b["phase"] == "training"
    for key in ("state", "optimizers", "rng", "rank_state"):
        assert_equal(a[key], b[key], key)


@pytest.mark.long
def test_mixtures_go_on_with_their_noise_balance_and_counts(tmp_path: Path) -> None:
    arguments = ("--model.trunk", "SparseMoE", "--model.trunk.num_experts", "4", "--trainer.max_epochs", "2")
    whole = fit(tmp_path, "whole", *SCHEDULE, *arguments, "--run_dir", "runs/whole")
    assert whole.returncode == 0, whole.stderr
    a, b = kill_and_resume(tmp_path, 27, *arguments)
    assert a["updates"] == b["updates"] == 40
    counts = [value for name, value in a["state"].items() if name.endswith("_extra_state")]
    assert len(counts) == 5
    assert all(rows.any() for rows in counts)
    for key in ("state", "optimizers", "rng", "rank_state"):
        assert_equal(a[key], b[key], key)


def test_a_checkpoint_of_another_model_is_refused_by_name(folder: Path) -> None:
    wider = fit(
        folder, "none", *SCHEDULE, "--run_dir", "runs/whole", "--ckpt_path", "last", "--model.hidden", "[24,16]"
    )
    assert wider.returncode == 2
    assert "does not fit the configured model" in wider.stderr
    assert "Traceback" not in wider.stderr
