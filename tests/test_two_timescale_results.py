"""The table of `benchmarks/bench_two_timescale.py`: known answers, and that the core learns what it is for."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
import bench_two_timescale  # noqa: E402 - no package holds the benchmarks
import two_timescale_results  # noqa: E402


def result(seed: int, curve: list[float]) -> dict[str, Any]:
    rows = [{"updates": 50 * (n + 1), "accuracy": y} for n, y in enumerate(curve)]
    return {"seed": seed, "rows": rows, "last": curve[-1], "seconds": 9}


def test_every_kind_has_a_name_and_as_many_parameters() -> None:
    assert {*bench_two_timescale.KINDS} == {*two_timescale_results.LABELS}
    sizes = [bench_two_timescale.size(make()) for make in bench_two_timescale.KINDS.values()]
    assert max(sizes) < 1.02 * min(sizes)


def test_the_table_tells_when_each_seed_reached_the_goal(tmp_path: Path) -> None:
    assert two_timescale_results.tables(tmp_path) == []
    for kind, runs in {
        "two-timescales": [result(0, [0.3, 0.96, 1.0]), result(1, [0.95, 1.0])],
        "lstm": [result(0, [0.2, 0.25])],
    }.items():
        (tmp_path / f"two_timescale-{kind}.json").write_text(json.dumps({"parameters": 34304, "runs": runs}))
    text = "\n".join(two_timescale_results.tables(tmp_path))
    assert "| two timescales | 34,304 | 100, 50 | 100.0%, 100.0% | 9, 9 |" in text
    assert "| LSTM | 34,304 | never in 100 | 25.0% | 9 |" in text
    two_timescale_results.draw(tmp_path)
    assert (tmp_path / "two_timescale.png").stat().st_size > 1000


def test_a_run_ends_where_three_evaluations_in_a_row_are_at_the_goal() -> None:
    ended = bench_two_timescale.solved
    assert not ended(result(0, [0.96, 0.96])["rows"])
    assert not ended(result(0, [0.96, 0.94, 0.96])["rows"])
    assert ended(result(0, [0.2, 0.95, 0.96, 1.0])["rows"])


def test_gradients_of_the_core_reach_farther_than_those_of_an_lstm() -> None:
    kinds = bench_two_timescale.KINDS
    torch.manual_seed(0)
    first = {kind: bench_two_timescale.reach(kinds[kind]())[0] for kind in ("two-timescales", "lstm")}
    assert first["two-timescales"] > 10.0 * first["lstm"] > 0.0


def test_a_run_that_was_cut_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"EVERY": 1, "SEQUENCES": 4, "BATCH": 4, "DELAY": 3}.items():
        monkeypatch.setattr(bench_two_timescale, name, value)
    whole = bench_two_timescale.run("two-timescales", 0, 4)
    bench_two_timescale.run("two-timescales", 1, 2)  # of another seed
    for kept in tmp_path.rglob("*-0.pt"):
        kept.unlink()
    bench_two_timescale.run("two-timescales", 0, 2)
    resumed = bench_two_timescale.run("two-timescales", 0, 4)
    assert (whole["rows"], whole["last"]) == (resumed["rows"], resumed["last"])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_core_learns_over_a_hundred_steps_where_an_lstm_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bench_two_timescale.run("two-timescales", 0, 600)["last"] >= 0.95
    assert bench_two_timescale.run("lstm", 0, 600)["last"] <= 0.6
