"""Tables of how well recorded data choose, from figures that are known."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

sys.path.append(str(ROOT / "benchmarks"))
import select_results  # noqa: E402 - a script beside the package


def row(name: str, setting: float, value: float, true: float) -> dict[str, Any]:
    numbers = {"setting": setting, "value": value, "low": -value, "tournament": value, "distance": setting}
    return {"name": name, "is_clone": name == "clone", "returns": [true - 1, true + 1] * 8, **numbers}


def test_rules_are_judged_by_true_scores(tmp_path: Path) -> None:
    rows = [row("b1", 1.0, 1.0, 2.0), row("b4", 4.0, 3.0, 5.0), row("b16", 16.0, 2.0, 3.0), row("clone", 0.0, 0.0, 1.0)]
    run = {"seed": 0, "chosen": "b16", "safe": "clone", "behaviour": {"return": 1.0}, "candidates": rows}
    content = {"set": "made", "command": "told", "runs": [run | {"processor": "one", "date": "today"}]}
    assert select_results.tables(tmp_path) == []
    (tmp_path / "select-made.json").write_text(json.dumps(content))
    lines = select_results.tables(tmp_path)
    expected = [
        "| fitted value | 1.00 | 0.0 | 0% | 0.0 |", "| lower bound | -1.00 | 4.0 | 100% | 4.0 |",
        "| choice, with fallback |  | 2.0 | 50% | 2.0 |", "| safe fallback |  | 4.0 | 100% | 4.0 |",
        "| smallest beta |  | 3.0 | 75% | 3.0 |", "| largest beta |  | 2.0 | 50% | 2.0 |",
        "| real episodes | 4 | 8 | 16 |", "| successive halving | 2.0 | 5.0 | 5.0 |",
    ]  # fmt: skip
    assert [line for line in expected if line not in lines] == []
    select_results.draw(tmp_path)
    assert (tmp_path / "select-made.png").stat().st_size > 5_000
