"""Trials of a sweep as rows: the best one, the table, the file and the picture."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from callbacks.evaluation.swept import Row, best_row, rows_table, write_rows
from callbacks.sweep_figure import best_so_far, draw_sweep
from commands.search_space import Choices, Range, SearchSpace
from commands.sweep_results import draw_results, importances_of

KEYS: dict[str, Range | Choices] = {
    "model.lr": Range(1e-4, 1e-1, log=True),
    "model.kind": Choices(("a", "b")),
    "model.units": Range(8, 64, whole=True),
}
SPACE = SearchSpace("space.yaml", KEYS)


def some(number: int = 40) -> list[Row]:
    """Trials whose score follows from the learning rate alone."""
    random = np.random.default_rng(0)
    lrs = 10 ** random.uniform(-4, -1, number)
    values = [{"model.lr": float(lr), "model.kind": "ab"[n % 2], "model.units": 8 + n} for n, lr in enumerate(lrs)]
    return [Row(n, "complete", v, -abs(math.log10(v["model.lr"]) + 2.5), {"0": 0.1 * n, "1": 1.0}) for n, v in
            enumerate(values)]  # fmt: skip


ENDED = [
    Row(40, "pruned", {"model.lr": 0.1, "model.kind": "a", "model.units": 9}, evaluations={1: -9.0, 2: -8.0},
        reason="pruned at evaluation 2"),
    Row(41, "failed", {"model.lr": 0.1, "model.kind": "b", "model.units": 9}, reason="NaN"),
]  # fmt: skip


def test_the_first_of_the_best_is_best() -> None:
    rows = [replace(row, score=score) for row, score in zip(some(4), (1.0, 3.0, 3.0, None), strict=True)]
    assert best_row(rows) is rows[1]
    assert best_row(ENDED) is None
    assert best_row([replace(rows[0], score=-2.0), replace(rows[1], score=0.0)]).trial == 1  # type: ignore[union-attr]
    assert best_so_far([*ENDED, *rows]) == ([0, 1, 2], [1.0, 3.0, 3.0])


def test_the_file_has_every_trial_and_the_table_the_best_ones(tmp_path: Path) -> None:
    rows = [*some(12), *ENDED]
    write_rows(rows, list(KEYS), tmp_path / "trials.csv")
    with (tmp_path / "trials.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [row["state"] for row in written] == ["complete"] * 12 + ["pruned", "failed"]
    assert [float(row["score"]) for row in written[:12]] == [row.score for row in rows[:12]]
    assert (written[12]["score"], written[12]["evaluations"], written[13]["reason"]) == ("", "2", "NaN")
    printed = io.StringIO()
    Console(file=printed, width=100).print(rows_table(rows, list(KEYS), "some"))
    lines = [line.split() for line in printed.getvalue().splitlines()]
    best = max(rows[:12], key=lambda row: row.score or 0.0)
    assert lines[1] == ["trial", "score", "seeds", "lr", "kind", "units"]
    assert lines[3][0] == str(best.trial)
    assert len(lines) == 3 + 10


def test_the_key_that_decides_is_the_most_important() -> None:
    found = importances_of([*some(), *ENDED], SPACE)
    assert isinstance(found, dict)
    assert sum(found.values()) == pytest.approx(1.0)
    assert found["model.lr"] > 0.6
    assert importances_of(some(14), SPACE) == "14 scores tell no importances, 15 might"
    assert importances_of([replace(row, score=1.0) for row in some()], SPACE) == "all scores are equal"


def test_the_picture_has_a_panel_for_each_key(tmp_path: Path) -> None:
    told = draw_results([*some(), *ENDED], SPACE, tmp_path)
    assert told.startswith("lr 0.")
    whole = (tmp_path / "sweep.png").stat().st_size
    draw_sweep(ENDED, "2 scores tell no importances, 15 might", {"model.lr": True}, tmp_path / "few.png")
    assert 5_000 < (tmp_path / "few.png").stat().st_size < whole
