"""A ratio that became worse by more than a tenth is named, and nothing is stored unless that is accepted."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import regressions


def write(folder: Path, name: str, *records: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.jsonl").write_text("== a title\n" + "".join(json.dumps(record) + "\n" for record in records))
    return folder


def update(version: str, threads: int = 1, **numbers: Any) -> dict[str, Any]:
    return {"benchmark": "one update", "version": version, "threads": threads, "torch": "2.14.1", "ms": 1.0, **numbers}


def test_a_speed_up_a_ratio_of_times_and_a_share_become_worse_each_in_its_own_way(tmp_path: Path) -> None:
    old = write(
        tmp_path / "old",
        "bench",
        update("fast", speedup_over_peer_median=2.0),
        update("fast", threads=2, speedup_over_peer_median=2.0),
        update("sparse", ratio_median=1.0, cpu_time_ratio_median=1.0),
        update("guarded", guard_stop_share=0.02),
        update("gone", speedup_median=1.0),
    )
    new = write(
        tmp_path / "new",
        "bench",
        update("fast", speedup_over_peer_median=1.7) | {"torch": "3.0", "ms": 99.0},
        update("fast", threads=2, speedup_over_peer_median=3.0),
        update("sparse", ratio_median=1.25, cpu_time_ratio_median=1.0),
        update("guarded", guard_stop_share=0.04),  # twice the share, and 2% of the time
        update("new", speedup_median=1.0),
    )
    found = {(c.row[2:], c.number): c.goodness for c in regressions.changes(old, new)}
    assert found == {
        (("sparse", "threads 1"), "ratio_median"): pytest.approx(0.8),
        (("fast", "threads 1"), "speedup_over_peer_median"): pytest.approx(0.85),
        (("guarded", "threads 1"), "guard_stop_share"): pytest.approx(1.02 / 1.04),
        (("sparse", "threads 1"), "cpu_time_ratio_median"): pytest.approx(1.0),
        (("fast", "threads 2"), "speedup_over_peer_median"): pytest.approx(1.5),
    }
    assert list(found.values()) == sorted(found.values())


def test_what_is_worse_is_named_and_stored_only_where_it_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = write(tmp_path / "old", "bench", update("fast", speedup_median=2.0), update("other", speedup_median=1.0))
    new = write(tmp_path / "new", "bench", update("fast", speedup_median=1.79), update("other", speedup_median=0.91))
    before = (old / "bench.jsonl").read_text()
    monkeypatch.setattr(regressions, "RESULTS", old)
    monkeypatch.setattr(sys, "argv", ["regressions.py", str(new)])
    with pytest.raises(SystemExit, match="nothing was stored"):
        regressions.main()
    said = capsys.readouterr().out
    assert "1 of 2 ratios that are stored and were measured became worse by more than 10%" in said
    assert "| bench, one update, fast, threads 1 | speedup_median | 2 | 1.79 | -10% |" in said
    assert "other" not in said
    assert (old / "bench.jsonl").read_text() == before
    monkeypatch.setattr(sys, "argv", ["regressions.py", str(new), "--accept"])
    regressions.main()
    assert (old / "bench.jsonl").read_text() == (new / "bench.jsonl").read_text()


def test_rows_of_all_stored_results_have_names_of_their_own() -> None:
    found = regressions.ratios(regressions.RESULTS)
    assert {row[0] for row, _ in found} >= {"bench_atac", "bench_fit", "bench_sampling", "bench_moe", "bench_dreamer"}
    assert all(change.goodness == 1.0 for change in regressions.changes(regressions.RESULTS, regressions.RESULTS))


def test_two_rows_of_one_name_are_refused(tmp_path: Path) -> None:
    twice = write(tmp_path / "it", "bench", update("a", speedup_median=1.0), update("a", speedup_median=2.0))
    with pytest.raises(ValueError, match=r"bench\.jsonl: two rows are one update, a, threads 1"):
        regressions.ratios(twice)
