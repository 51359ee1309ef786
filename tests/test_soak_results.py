"""Growth of a long run is told of its longest start alone, behind its warm-up, by the slope of a line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import soak_results


def look(updates: int, start: int, memory: float) -> dict[str, Any]:
    rest = {"files": 20, "threads": 4, "folder": 2e6, "database": 1e6 + 10 * updates}
    return {"updates": updates, "seconds": updates / 100, "start": start, "memory": memory, **rest}


def looks() -> list[dict[str, Any]]:
    """A short first start whose memory explodes, and one that holds 300 MB, grows to 400, and then by 2 MB a look."""
    first = [look(1000 * i, 0, 1e6 * 100**i) for i in range(3)]
    warming = [look(100_000 + 10_000 * i, 1, 3e8 + 5e7 * i) for i in range(2)]
    return first + warming + [look(120_000 + 10_000 * i, 1, 4e8 + 2e6 * i) for i in range(8)]


def test_the_slope_behind_the_warm_up_is_that_of_the_longest_start() -> None:
    found = soak_results.growth(looks())
    numbers = {"warm": 400.0, "last": 414.0, "slope": 20.0, "rise": 14 / 400}
    assert found["memory"] == {name: pytest.approx(number) for name, number in numbers.items()}
    assert found["files"] == {"warm": 20.0, "last": 20.0, "slope": pytest.approx(0, abs=1e-9), "rise": pytest.approx(0)}
    assert found["database"]["slope"] == pytest.approx(1.0)
    alone = soak_results.growth(looks()[:1])
    assert alone["memory"]["slope"] == 0.0


def test_memory_may_go_up_and_down_and_one_more_open_file_is_a_leak() -> None:
    assert soak_results.grown(soak_results.growth(looks())) == ["memory, MB"]
    still = [one | {"memory": 4e8 + 1e6 * (i % 2)} for i, one in enumerate(looks())]
    assert soak_results.grown(soak_results.growth(still)) == []
    seldom = [one | {"files": 20 + 5 * (i == 9)} for i, one in enumerate(still)]
    assert soak_results.grown(soak_results.growth(seldom)) == []
    leaking = [one | {"files": 20 + (one["updates"] > 150_000)} for one in still]
    assert soak_results.grown(soak_results.growth(leaking)) == ["open files"]


def test_a_run_becomes_rows_and_a_figure(tmp_path: Path) -> None:
    assert soak_results.tables(tmp_path) == []
    content = {"looks": looks(), "growth": soak_results.growth(looks())}
    (tmp_path / "soak-tiny.json").write_text(json.dumps(content))
    rows = [line for line in soak_results.tables(tmp_path) if line.startswith("| tiny | 190,000 | 0.53 |")]
    assert len(rows) == len(soak_results.QUANTITIES)
    assert rows[0].endswith("| memory, MB | 400.0 | 414.0 | +20.00 | +3.5% |")
    soak_results.draw(tmp_path)
    assert (tmp_path / "soak-tiny.png").stat().st_size > 10_000
