"""Folders of runs: new ones, continued ones, and one folder for all processes of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands import run_directory


def make_run(root: Path, name: str, *checkpoints: str) -> Path:
    folder = root / name / "checkpoints"
    folder.mkdir(parents=True)
    for checkpoint in checkpoints:
        (folder / checkpoint).touch()
    return root / name


def test_root_is_named_after_the_first_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_directory.experiment_root(None, ["atac/pendulum.yaml", "x"]) == tmp_path / "runs/atac-pendulum"
    assert run_directory.experiment_root("here", ["atac/pendulum"]) == tmp_path / "here"
    assert run_directory.experiment_root(None, []) == tmp_path / "runs/unnamed"


def test_last_is_the_newest_run_that_has_one(tmp_path: Path) -> None:
    make_run(tmp_path, "2026-01-01_00-00-00", "last.ckpt", "best.ckpt")
    newest = make_run(tmp_path, "2026-02-01_00-00-00", "last.ckpt")
    make_run(tmp_path, "2026-03-01_00-00-00")
    found = run_directory.find_checkpoint("last", tmp_path)
    assert found == newest / "checkpoints/last.ckpt"
    assert run_directory.choose(tmp_path, found) == newest
    best = run_directory.find_checkpoint("best", tmp_path)
    assert best is not None
    assert best.parts[-3] == "2026-01-01_00-00-00"
    assert not run_directory.choose(tmp_path, best).exists()  # a branch from the best one is a new run
    with pytest.raises(ValueError, match="no run under"):
        run_directory.find_checkpoint("last", tmp_path / "elsewhere")


def test_processes_of_one_run_share_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(run_directory.VARIABLE, raising=False)
    first = run_directory.choose(tmp_path, None)
    first.mkdir()
    assert run_directory.choose(tmp_path, None) != first  # two runs within one second
    with run_directory.announced(first):
        assert run_directory.choose(tmp_path, None) == first
        assert run_directory.find_checkpoint("last", tmp_path) == first / "checkpoints/last.ckpt"
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="REVERIE_RUN_DIR"):
        run_directory.choose(tmp_path, None)
