"""How figures come about that are measured: of this process, and of runs that are read back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
import code_tags  # noqa: E402 - no package holds the benchmarks
import measured_by  # noqa: E402

from commands.run_origin import ORIGIN, Start, add_start  # noqa: E402


def test_without_runs_it_is_this_process_at_this_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bench_sac.py", "--datasets", "/elsewhere/data", "--seeds", "0"])
    found = measured_by.origin(data={"hopper": "ab" * 32}, seeds=range(2))
    assert found["command"] == "python benchmarks/bench_sac.py --datasets data --seeds 0"
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/reverie", "reproduce", "a"])
    assert measured_by.shown_command() == "reverie reproduce a"
    assert (found["data"], found["seeds"]) == ({"hopper": "ab" * 32}, [0, 1])
    assert found["processor"] == measured_by.processor() != ""
    assert found["tags"] == code_tags.newest_tags()
    assert {"python", "torch", "gymnasium"} <= found["versions"].keys()
    told = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True)
    assert found["commits"] == told.stdout.split()  # none outside of a checkout
    json.dumps(found)


def test_runs_that_are_read_back_tell_the_commits_that_they_ran_at(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b", "old")]
    for folder, commit, changed in zip(folders, ("111", "222", ""), ("false", "true", ""), strict=True):
        folder.mkdir()
        if commit:
            commits = {"reverie_commit": commit, "reverie_changed": changed, "commit": "theirs", "changed": "true"}
            start = Start("now", "reverie fit", "a system", commits, {"torch": "1.0"})
            (folder / ORIGIN).write_text(json.dumps({"starts": [start._asdict(), start._asdict()]}))
    found = measured_by.origin(folders)
    assert (found["commits"], found["changed"], found["versions"]) == (["111", "222"], True, {"torch": "1.0"})
    assert not measured_by.origin(folders[:1])["changed"]
    assert measured_by.origin(folders[2:])["commits"] == []  # nobody knows, and it is not guessed
    add_start(folders[2], "reverie fit")
    assert measured_by.origin(folders[2:])["commits"] == measured_by.origin()["commits"]


def test_a_line_has_its_numbers_and_its_origin(capsys: pytest.CaptureFixture[str]) -> None:
    measured_by.tell({"benchmark": "a", "ms": 1.5})
    line = json.loads(capsys.readouterr().out)
    assert (line["benchmark"], line["ms"]) == ("a", 1.5)
    assert line["origin"] == measured_by.origin()
