"""Folders of runs: new ones, continued ones, and one folder for all processes of a run."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
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
    branch = run_directory.choose(tmp_path, best)  # a branch from the best one is a new run
    assert list(branch.iterdir()) == []
    with pytest.raises(ValueError, match="no run under"):
        run_directory.find_checkpoint("last", tmp_path / "elsewhere")


def test_processes_of_one_run_share_its_folder_and_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(run_directory.VARIABLE, raising=False)
    first = run_directory.choose(tmp_path, None)
    assert run_directory.choose(tmp_path, None) != first  # two runs within one second
    best = make_run(tmp_path, "older", "best.ckpt") / "checkpoints/best.ckpt"
    with run_directory.announced(first, best):
        assert run_directory.choose(tmp_path, best) == first
        assert run_directory.find_checkpoint("best", tmp_path / "wherever") == best
        monkeypatch.setenv("LOCAL_RANK", "1")
        with run_directory.occupied(first, False):  # a child is no other run
            assert not (first / ".lock").exists()
        monkeypatch.delenv("LOCAL_RANK")
    assert run_directory.CHECKPOINT not in os.environ
    monkeypatch.setenv(run_directory.VARIABLE, str(tmp_path / "older"))
    assert run_directory.find_checkpoint("best", tmp_path / "wherever") == best
    with pytest.raises(ValueError, match="no checkpoint file"):
        run_directory.find_checkpoint("last", tmp_path)
    monkeypatch.delenv(run_directory.VARIABLE)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="REVERIE_RUN_DIR"):
        run_directory.choose(tmp_path, None)


def test_a_launchers_folder_is_continued_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "job"
    monkeypatch.setenv(run_directory.VARIABLE, str(folder))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    # The first start of a job, and a restart before the first checkpoint, are the same command as any other restart.
    assert run_directory.find_checkpoint("last", tmp_path, may_begin=True) is None
    assert "no checkpoint yet: the run starts there" in capsys.readouterr().err
    assert run_directory.choose(tmp_path, None) == folder
    with run_directory.occupied(folder, continued=True):
        (folder / "config.yaml").touch()
        monkeypatch.setenv("RANK", "1")  # the other rank of the same launcher passes
        assert run_directory.find_checkpoint("last", tmp_path, may_begin=True) is None
        with run_directory.occupied(folder, continued=True):
            pass
        monkeypatch.setenv("RANK", "0")
        with (
            pytest.raises(ValueError, match=rf"^process {os.getpid()} on .* trains in "),
            run_directory.occupied(folder, True),
        ):
            pytest.fail("two jobs in one folder")
    assert capsys.readouterr().err == ""
    held = make_run(tmp_path, "job", "last.ckpt") / "checkpoints/last.ckpt"
    assert run_directory.find_checkpoint("last", tmp_path, may_begin=True) == held
    with (
        pytest.raises(ValueError, match=r"job holds a run.*--ckpt_path last continues it, or name another folder"),
        run_directory.occupied(folder, continued=False),
    ):
        pytest.fail("a finished run was overwritten")
    with run_directory.occupied(folder, continued=True):
        pass
    held.rename(held.with_name("best.ckpt"))  # never taken for a folder that a run may begin in
    with pytest.raises(ValueError, match="no checkpoint file"):
        run_directory.find_checkpoint("last", tmp_path, may_begin=True)


def test_runs_that_start_at_once_get_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: run_directory.choose(tmp_path / "new/root", None), range(32)))
    assert len(set(folders)) == 32


def test_a_folder_has_one_run_at_a_time_and_an_empty_one_goes(tmp_path: Path) -> None:
    empty, used = run_directory.choose(tmp_path, None), run_directory.choose(tmp_path, None)
    with (
        run_directory.occupied(empty, False),
        pytest.raises(ValueError, match=rf"^process {os.getpid()} on .*: wait until it ends, end it, or start a new"),
        run_directory.occupied(empty, False),
    ):
        pytest.fail("two runs in one folder")
    assert not empty.exists()
    with run_directory.occupied(used, False):
        (used / "config.yaml").touch()
    assert used.exists()
    assert run_directory.holder(used) == "another process"  # nothing is left that tells of one
    with run_directory.occupied(used, True):
        pass


def test_a_refused_run_leaves_no_folders_that_were_not_there(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for root in ("there/new", "there", "new/newer"):
        with run_directory.nothing_left(tmp_path / root):
            folder = run_directory.choose(tmp_path / root, None)
            with run_directory.occupied(folder, continued=False):
                pass
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    with run_directory.nothing_left(tmp_path / "new"):
        (run_directory.choose(tmp_path / "new", None) / "config.yaml").touch()
    assert [*tmp_path.glob("new/*/config.yaml")]


def test_commands_that_read_find_a_checkpoint_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for run in ("atac-pendulum/2026-01-02", "atac-pendulum/2026-01-03", "dreamer-catch/2026-01-04"):
        make_run(tmp_path / "runs", run, "last.ckpt")
    newest = run_directory.checkpoint_of_run("last", None, None)
    assert newest.parts[-4:-2] == ("dreamer-catch", "2026-01-04")
    assert run_directory.checkpoint_of_run("last", "atac/pendulum", None).parts[-3] == "2026-01-03"
    assert run_directory.checkpoint_of_run("last", None, "runs/dreamer-catch").parts[-3] == "2026-01-04"
    assert run_directory.checkpoint_of_run(str(newest), None, None) == newest
    with pytest.raises(ValueError, match=r"no run under runs has checkpoints/best\.ckpt"):
        run_directory.checkpoint_of_run("best", None, None)
    (tmp_path / "runs/atac-pendulum/2026-01-02/checkpoints/cloned.ckpt").touch()
    with pytest.raises(
        ValueError, match=r"has checkpoints/trusted\.ckpt; what there is: last, cloned\. Take that, or "
    ):
        run_directory.checkpoint_of_run("trusted", "atac/pendulum", None)
    with pytest.raises(ValueError, match=r"no run under .*r2d2-tmaze has checkpoints/last\.ckpt; give the same"):
        run_directory.checkpoint_of_run("last", "r2d2/tmaze", None)
    with pytest.raises(ValueError, match=r"no packaged config 'atac/pendulm'; close: atac/pendulum"):
        run_directory.checkpoint_of_run("last", "atac/pendulm", None)
    with pytest.raises(ValueError, match="--config and --run_dir say whose"):
        run_directory.checkpoint_of_run(str(newest), "atac/pendulum", None)
    with pytest.raises(ValueError, match="also takes last, best, trusted and cloned"):
        run_directory.checkpoint_of_run("lst", None, None)
