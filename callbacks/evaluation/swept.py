"""Trials of a sweep, and how good they were: rows, the best one, a table and a CSV file."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from callbacks.evaluation.report import LOOK
from callbacks.files.written_aside import written_aside

SHOWN = 10
"""Most rows of the table on the screen; the file has all."""


@dataclass(frozen=True)
class Row:
    """One setting that was tried: a trial, or one of the choices that a trial has trained side by side.

    Attributes:
        trial: number of the trial.
        state: `complete`, `pruned`, `failed` or `running`.
        values: value of each key.
        score: interquartile mean over seeds, of fewer than four the mean; None where it was not reached.
        seeds: score of each seed.
        evaluations: evaluations that it had, with its value at each, by their number.
        seconds: seconds of training.
        reason: what ended it before its time.
        lower: whether less is better.
    """

    trial: int
    state: str
    values: Mapping[str, Any]
    score: float | None = None
    seeds: Mapping[str, float] = field(default_factory=dict)
    evaluations: Mapping[int, float] = field(default_factory=dict)
    seconds: float = 0.0
    reason: str = ""
    lower: bool = False

    @property
    def merit(self) -> float:
        """The score, or minus it where less is better: the best row has the most; of one without a score the least."""
        if self.score is None:
            return -math.inf
        return -self.score if self.lower else self.score


def best_row(rows: Sequence[Row]) -> Row | None:
    """The row with the best score; of equal ones the first."""
    return max((row for row in rows if row.score is not None), key=lambda row: row.merit, default=None)


def write_rows(rows: Sequence[Row], keys: Sequence[str], path: Path) -> None:
    """A CSV file with a line for each row, replaced as a whole."""
    seeds = list(dict.fromkeys(seed for row in rows for seed in row.seeds))
    head = ["trial", "state", "score", *(f"seed {seed}" for seed in seeds), *keys, "evaluations", "seconds", "reason"]
    with written_aside(path) as aside, aside.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        for row in rows:
            own = [row.seeds.get(seed, "") for seed in seeds]
            tried = [_text(row.values[key]) for key in keys]
            score = "" if row.score is None else row.score
            rest = [len(row.evaluations), round(row.seconds, 1), row.reason]
            writer.writerow([row.trial, row.state, score, *own, *tried, *rest])


def rows_table(rows: Sequence[Row], keys: Sequence[str], title: str) -> Table:
    """The best rows, best first."""
    ended = sorted((row for row in rows if row.score is not None), key=lambda row: -row.merit)
    table = Table(title=Text(title, "bold"), **LOOK)
    for name in ("trial", "score", "seeds", *(key.rpartition(".")[2] for key in keys)):
        table.add_column(name, justify="right", overflow="fold")
    for number, row in enumerate(ended[:SHOWN]):
        some = sorted(row.seeds.values())
        spread = f"{some[0]:.4g} .. {some[-1]:.4g}" if len(some) > 1 else "-"
        tried = [_short(row.values[key]) for key in keys]
        table.add_row(str(row.trial), f"{row.score:.4g}", spread, *tried, style="bold" if number == 0 else "")
    return table


def told_values(values: Mapping[str, Any]) -> str:
    """Values by the last parts of their keys, on one line."""
    return " ".join(f"{key.rpartition('.')[2]}={_short(value)}" for key, value in values.items())


def _text(value: Any) -> Any:
    return value if isinstance(value, str | int | float) and not isinstance(value, bool) else json.dumps(value)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(_text(value))
