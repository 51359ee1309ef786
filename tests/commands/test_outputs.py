"""Places that a command's results are written to are looked at before the work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from checkpoint_files import write_checkpoint
from command_line import mistake

from commands.outputs import check_folder


def test_a_folder_that_can_be_made_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_folder("--output", tmp_path / "some new" / "folder")
    assert not (tmp_path / "some new").exists()
    monkeypatch.chdir(tmp_path)
    check_folder("--output", Path("here"))


def test_what_cannot_be_written_to_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"--output .*file/x: .*file is no folder; name another one"):
        check_folder("--output", tmp_path / "file/x")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the administrator may write anywhere
    with pytest.raises(ValueError, match=r"--export .*x: .* cannot be written to; name another one"):
        check_folder("--export", tmp_path / "x")


def test_evaluate_and_export_say_so_before_they_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "policy.ckpt")
    write_checkpoint(Path(file))
    evaluate = ["evaluate", "--ckpt_path", file, "--episodes", "100000"]
    assert "is no folder; name another one" in mistake([*evaluate, "--output", f"{file}/returns.json"], capsys)
    assert "is no folder; name another one" in mistake([*evaluate, "--video", file], capsys)
    assert "seed must lie in [0, 2,147,483,647], got -1" in mistake([*evaluate, "--seed", "-1"], capsys)
    assert "is no folder; name another one" in mistake(["export", "--ckpt_path", file, "--output", file], capsys)
