"""A soak looks at the run, goes on where it was, and ends when its time is over."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import soak

from commands.run_directory import VARIABLE


@pytest.mark.long
def test_a_soak_is_cut_by_its_time_and_goes_on_to_its_updates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (VARIABLE, "REVERIE_CACHE"):
        monkeypatch.setenv(name, "")  # which a soak sets: put back at the end
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(soak, "EVERY_SECONDS", 0.0)
    monkeypatch.setitem(soak.CASES, "tiny", (*soak.CASES["tiny"], "--data.updates_per_epoch", "10"))
    first = soak.soak("tiny", tmp_path / "it", updates=30, seconds=1e-9)
    assert {look["start"] for look in first} == {0}
    assert first[-1]["updates"] < 30
    looks = soak.soak("tiny", tmp_path / "it", updates=30, seconds=0)
    second = looks[len(first) :]
    assert looks[: len(first)] == first
    assert [look["updates"] for look in second] == list(range(first[-1]["updates"] + 1, 31))
    assert {look["start"] for look in second} == {1}
    assert second[0]["seconds"] >= first[-1]["seconds"]
    assert min(look["memory"] for look in looks) > 50e6
    # Threads of the run may close a few at their end; many more that are open are seen.
    before = soak.held(tmp_path)["files"]
    with ExitStack() as opened:
        for _ in range(100):
            opened.enter_context((tmp_path / "one").open("w"))
        assert 80 < soak.held(tmp_path)["files"] - before < 120
    assert looks[-1]["folder"] >= (tmp_path / "it/work/run/checkpoints/last.ckpt").stat().st_size
    assert looks[-1]["database"] >= (tmp_path / "it/work/mlflow.db").stat().st_size / 2
