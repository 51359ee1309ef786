"""Numbers in documents are those at the keys of the results files that they name."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
from marked_numbers import documents, evaluate, renewed  # noqa: E402 - no package holds the benchmarks

RUNS = [
    {"seed": 0, "rows": [{"kind": "curve", "mean": 0.2, "environment_steps": 1000.0},
                         {"kind": "curve", "mean": 0.95, "environment_steps": 2000.0}, {"kind": "last", "mean": 1.0}]},
    {"seed": 1, "rows": [{"kind": "curve", "mean": 0.2, "environment_steps": 1000.0}, {"kind": "last", "mean": 0.5}]},
]  # fmt: skip
CONTENT = {"runs": RUNS, "cells": [{"agent": "armor", "last": [3.0, 5.0], "cloned": [1.0, 1.0]}], "with checks, s": 2.0}
LAST = "runs[].rows[kind=last].mean"


@pytest.mark.parametrize(
    ("key", "values"),
    [
        (LAST, [1.0, 0.5]),
        ("runs[1].seed", [1]),
        (f"mean({LAST})", [0.75]),
        (f"iqm({LAST})", [0.75]),
        (f"low({LAST})", [0.5]),
        (f"high({LAST})", [1.0]),
        (f"max({LAST})", [1.0]),
        (f"min({LAST})", [0.5]),
        ("cells[agent=arm*].last[]", [3.0, 5.0]),
        ("less(cells[agent=armor].last,cells[agent=armor].cloned)", [2.0, 4.0]),
        ("mean(less(cells[agent=armor].last,cells[agent=armor].cloned))", [3.0]),
        ("over(4,with?checks*)", [0.5]),
        ("reached(0.9,runs[])", [2000.0, None]),
        ("over(1000,reached(0.9,runs[]))", [2.0, None]),
    ],
)
def test_a_key_leads_to_its_numbers(key: str, values: list[float]) -> None:
    assert evaluate(key, CONTENT) == pytest.approx(values)


def mark(key: str, form: str, text: str, file: str = "made.json") -> str:
    return f"<!-- n {file} {key} {form} -->{text}<!-- /n -->"


def test_a_number_that_differs_from_its_file_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / "made.json").write_text(json.dumps(CONTENT))
    (tmp_path / "made.jsonl").write_text('== a title\n{"version": "a, b", "ms": 1.5}\n{"version": "c", "ms": 2.5}\n')
    true = f"a | {mark(LAST, '.2f', '1.00, 0.50')} | {mark('[version=a,?b].ms', '.1f', '1.5', 'made.jsonl')}\n"
    assert renewed(true, tmp_path, "page.md") == true
    drifted = true.replace("0.50", "0.60").replace("1.5<", "1.4<")
    assert drifted != true
    assert renewed(drifted, tmp_path, "page.md") == true
    when = mark("over(1000,reached(0.9,runs[]))", ".0f", "")
    assert ">2, never<" in renewed(when, tmp_path, "page.md")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (mark("runs[].rows[kind=best].mean", ".2f", "1"), "page.md: made.json .*: nothing is at"),
        (mark(LAST, "d", "1"), "Unknown format code"),
        (mark(LAST, ".2f", "1", "gone.json"), "No such file"),
        (mark("median(runs[].seed)", ".2f", "1"), r"there is no median\(...\) of runs"),
        ("<!-- n made.json runs[].seed d -->0, 1", "is <!-- n FILE KEY FORMAT -->...<!-- /n -->, and one is not"),
        ("<!-- n made.json runs[].seed -->0, 1<!-- /n -->", "and one is not"),
    ],
)
def test_a_mark_that_leads_nowhere_is_refused_with_its_page(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "made.json").write_text(json.dumps(CONTENT))
    with pytest.raises(ValueError, match=said):
        renewed(text, tmp_path, "page.md")


def test_pages_with_tables_of_results_mark_their_numbers() -> None:
    marked = {path.name for path in documents() if "<!-- n " in path.read_text()}
    assert {
        "atac.md",
        "armor.md",
        "dreamer.md",
        "lookahead.md",
        "merlin.md",
        "moe.md",
        "popart.md",
        "r2d2.md",
    } <= marked
