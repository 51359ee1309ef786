"""How a run was started, as its folder tells it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import commands.run_origin
from commands.run_origin import ORIGIN, add_start, read_starts


def test_every_start_is_told_once_and_without_passwords(tmp_path: Path) -> None:
    assert read_starts(tmp_path) == []
    for command in ("reverie fit --a 1", "reverie fit --a 1", "reverie fit --tracking_uri http://me:secret@host"):
        add_start(tmp_path, command)
    first, second = read_starts(tmp_path)  # the second is the first again
    assert first.command == "reverie fit --a 1"
    assert second.command == "reverie fit --tracking_uri http://***@host"
    assert first.versions["torch"]
    assert first.time.endswith("+00:00")
    assert "secret" not in (tmp_path / ORIGIN).read_text()


def test_commits_are_those_that_git_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tags = {"command": "x", "mlflow.source.git.commit": "a" * 40, "git.dirty": "true", "mlflow.user": "somebody"}
    monkeypatch.setattr(commands.run_origin, "origin_tags", lambda _: tags)
    add_start(tmp_path, "x")
    (start,) = read_starts(tmp_path)
    assert start.commits == {"commit": "a" * 40, "changed": "true"}
    assert "somebody" not in (tmp_path / ORIGIN).read_text()


@pytest.mark.parametrize("text", ["no JSON", "{}", json.dumps({"starts": [{"command": "x"}]}), '{"starts": 3}'])
def test_a_damaged_file_is_named_and_keeps_no_run_from_going_on(text: str, tmp_path: Path) -> None:
    (tmp_path / ORIGIN).write_text(text)
    with pytest.raises(ValueError, match="damaged"):
        read_starts(tmp_path)
    add_start(tmp_path, "reverie fit")
    assert [start.command for start in read_starts(tmp_path)] == ["reverie fit"]
