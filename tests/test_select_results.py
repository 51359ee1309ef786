"""Tables of how well recorded data choose, from figures that are known."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]

sys.path.append(str(ROOT / "benchmarks"))
import select_results  # noqa: E402 - a script beside the package
from pages import made_anew  # noqa: E402


def row(name: str, setting: float, value: float, true: float) -> dict[str, Any]:
    numbers = {"setting": setting, "value": value, "low": -value, "tournament": value, "distance": setting}
    return {"name": name, "is_clone": name == "clone", "returns": [true - 1, true + 1] * 8, **numbers}


def test_rules_are_judged_by_true_scores(tmp_path: Path) -> None:
    rows = [row("b1", 1.0, 1.0, 2.0), row("b4", 4.0, 3.0, 5.0), row("b16", 16.0, 2.0, 3.0), row("clone", 0.0, 0.0, 1.0)]
    run = {"seed": 0, "chosen": "b16", "behaviour": {"return": 1.0}, "candidates": rows}
    content = {"set": "made", "command": "told", "runs": [run | {"processor": "one", "date": "today"}]}
    assert select_results.tables(tmp_path) == []
    (tmp_path / "select-made.json").write_text(json.dumps(content))
    lines = select_results.tables(tmp_path)
    expected = [
        "| fitted value | 1.00 | 5.0 | 0.0 | 0% | 0.0 |", "| lower bound | -1.00 | 1.0 | 4.0 | 100% | 4.0 |",
        "| choice, with fallback |  | 3.0 | 2.0 | 50% | 2.0 |", "| safe fallback |  | 1.0 | 4.0 | 100% | 4.0 |",
        "| smallest beta |  | 2.0 | 3.0 | 75% | 3.0 |", "| largest beta |  | 3.0 | 2.0 | 50% | 2.0 |",
        "| best candidate | | 5.0 | | | |", "| best cloned policy | | 1.0 | | | |", "| the data | | 1.0 | | | |",
        "| real episodes | 4 | 8 | 16 |", "| successive halving | 2.0 | 5.0 | 5.0 |",
    ]  # fmt: skip
    assert [line for line in expected if line not in lines] == []
    assert not [line for line in lines if "tuned by" in line]
    # A second measurement of the set, by another preset, stands by its title, and the tuned preset in both tables.
    titled = content | {"title": "one preset", "command": "other"}
    (tmp_path / "select-made-one-preset.json").write_text(json.dumps(titled))
    learned = {"command": "reverie fit --config atac/made --model.seeds 3", "rows": [{"kind": "last", "mean": 7.0}]}
    (tmp_path / "learning-made.json").write_text(json.dumps(learned))
    lines = select_results.tables(tmp_path)
    assert [line for line in lines if line.startswith("###")] == ["### made", "### made, one preset"]
    assert lines.count("| `atac/made`, tuned by real returns | | 7.0 | | | |") == 2
    assert "![score against beta, made, one preset](results/select-made-one-preset.png)" in lines


def test_the_figure_and_its_place_in_the_documentation_are_made_of_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = tmp_path / "all.png"
    select_results.draw(tmp_path, figure)
    assert not figure.exists()
    assert "![" not in select_results.page(tmp_path)
    # Three made-up sets, one with a beta of 0 and one where the cloned policy is chosen.
    for name, betas, chosen in (("one", (1.0, 4.0), "b1"), ("two", (0.0, 4.0), "b0"), ("three", (1.0, 4.0), "clone")):
        rows = [row(f"b{b:g}", b, b, 2.0 - b) for b in betas] + [row("clone", 0.0, 0.0, 1.0)]
        runs = [{"seed": s, "chosen": chosen, "behaviour": {"return": 1.0}, "candidates": rows} for s in range(2)]
        (tmp_path / f"select-{name}.json").write_text(json.dumps({"set": name, "runs": runs}))
    select_results.draw(tmp_path, figure)
    for path in (figure, *(tmp_path / f"select-{name}.png" for name in ("one", "two", "three"))):
        assert 5_000 < path.stat().st_size < 300_000
    page = select_results.page(tmp_path)
    assert "![true score against beta, one, three, two](figures/select.png)" in page
    # Made twice it is the same, and without results it is as it was.
    monkeypatch.setattr(select_results, "PAGE", tmp_path / "page.md")
    select_results.PAGE.write_text(page)
    assert select_results.page(tmp_path) == page
    assert select_results.page(tmp_path / "none") == made_anew((ROOT / "docs/select.md").read_text(), [])


def test_the_page_is_the_one_that_was_made() -> None:
    made = select_results.page(ROOT / "benchmarks/results")
    assert (ROOT / "docs/select.md").read_text() == made, "make it again: python benchmarks/report.py"
