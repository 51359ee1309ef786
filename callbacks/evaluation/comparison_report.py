"""The report of a comparison: a table on the screen, CSV files, and a page for a browser."""

from __future__ import annotations

import base64
import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from callbacks.evaluation.comparison import Comparison, Interval
from callbacks.evaluation.comparison_figure import best_group, draw_comparison
from callbacks.evaluation.report import LOOK, policy_heading, unit_of
from callbacks.files.written_aside import written_aside
from datamodules.envs.episode_infos import return_text

SCORES = {
    "last": "returns of the last policy",
    "best": "returns of the best checkpoint, which was chosen by returns in the environment",
    "curve": "returns of the last regular evaluation that all runs reached",
}

STYLE = (
    "body{font-family:sans-serif;max-width:70em;margin:2em auto;padding:0 1em}table{border-collapse:collapse;"
    "margin:1em 0}td,th{padding:.2em .8em;text-align:right;border-bottom:1px solid #ddd}td:first-child,"
    "th:first-child{text-align:left}img{max-width:100%}"
)


def comparison_table(comparison: Comparison, title: str) -> Table:
    """One row per group: runs, updates, the interquartile mean with its interval, and the other aggregates."""
    table = Table(title=Text(title, "bold"), **LOOK)
    unit = unit_of(x for of in comparison.aggregates.values() for one in of.values() for x in one)
    table.add_column(policy_heading(unit).replace("policy", "group"), overflow="fold")
    names = list(next(iter(comparison.aggregates.values())))
    for name in ("runs", "updates", "IQM", "95% interval", *names[1:]):
        table.add_column(name, justify="right", no_wrap=True)
    for group, aggregates in comparison.aggregates.items():
        middle = aggregates["IQM"]
        cells = [str(len(comparison.groups[group])), _updates(comparison, group)]
        cells += [return_text(middle.value / unit), _ends(middle, unit)]
        table.add_row(Text(group), *cells, *(return_text(aggregates[name].value / unit) for name in names[1:]))
    return table


def comparison_footer(comparison: Comparison) -> dict[str, str]:
    """Lines below the table: what scores are, the tasks, how sure the best group is better, and what is not known."""
    lines = {"scores": f"{SCORES[comparison.kind]}; {comparison.unit}"}
    lines["tasks" if comparison.tasks[1:] else "task"] = ", ".join(task.label for task in comparison.tasks)
    best = best_group(comparison)
    for other in comparison.groups:
        probability = comparison.improvement.get((best, other))
        if probability is not None and math.isfinite(probability.low):
            lines[f"{best} better than {other}"] = f"probability {_whole(probability, _two_digits)}"
    few = [name for name, of in comparison.scores.items() if max(map(len, of)) < 2]
    if few:
        lines["no interval"] = f"one run alone tells nothing about others: {', '.join(few)}"
    return lines | {f"no curve over {axis}": reason for axis, reason in comparison.missing.items()}


def comparison_metrics(comparison: Comparison) -> dict[str, dict[str, float]]:
    """Aggregates by group and name, with their intervals where there are some."""
    return {
        group: {
            f"{name.replace(' ', '_')}{end}": number
            for name, one in aggregates.items()
            for end, number in zip(("", "/low", "/high"), one, strict=True)
            if math.isfinite(number)
        }
        for group, aggregates in comparison.aggregates.items()
    }


def write_comparison(comparison: Comparison, title: str, notes: Mapping[str, str], folder: Path) -> list[Path]:
    """`compare.csv`, `scores.csv`, `curves.csv`, `compare.png` and `compare.html`; each is replaced as a whole.

    Returns:
        the files.
    """
    files = [folder / name for name in ("compare.csv", "scores.csv", "curves.csv", "compare.png", "compare.html")]
    _write(files[0], ["group", "number", "value", "low", "high"], _numbers(comparison))
    _write(files[1], ["group", "task", "run", "updates", "score"], _scores(comparison))
    _write(files[2], ["group", "axis", "x", "value", "low", "high"], _points(comparison))
    draw_comparison(comparison, title, files[3])
    with written_aside(files[4]) as aside:
        aside.write_text(_page(comparison, title, notes, files[3]))
    return files


def _numbers(comparison: Comparison) -> Iterable[Sequence[Any]]:
    for group, aggregates in comparison.aggregates.items():
        yield from ([group, name, *one] for name, one in aggregates.items())
    for (group, other), one in comparison.improvement.items():
        yield [group, f"probability to be better than {other}", *one]


def _scores(comparison: Comparison) -> Iterable[Sequence[Any]]:
    for group, runs in comparison.groups.items():
        for task, scores in zip(comparison.tasks, comparison.scores[group], strict=True):
            of_task = [run for run in runs if run.task == task]
            yield from (
                [group, task.label, run.name, comparison.behind[run.name], float(score)]
                for run, score in zip(of_task, scores, strict=True)
            )


def _points(comparison: Comparison) -> Iterable[Sequence[Any]]:
    for axis, bands in {**comparison.curves, "share of runs above a score": comparison.profiles}.items():
        for group, band in bands.items():
            yield from ([group, axis, *map(float, point)] for point in zip(*band, strict=True))


def _write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with written_aside(path) as aside, aside.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(["" if isinstance(x, float) and math.isnan(x) else x for x in row] for row in rows)


def _page(comparison: Comparison, title: str, notes: Mapping[str, str], picture: Path) -> str:
    """A page that needs no other file: the picture, all aggregates, all pairs, and the runs."""
    names = list(next(iter(comparison.aggregates.values())))
    aggregates = [
        [group, len(comparison.groups[group]), _updates(comparison, group), *(_whole(of[name]) for name in names)]
        for group, of in comparison.aggregates.items()
    ]
    groups = list(comparison.groups)
    pairs = [
        [one, *("" if one == other else _whole(comparison.improvement[one, other], _two_digits) for other in groups)]
        for one in groups
    ]
    image = base64.b64encode(picture.read_bytes()).decode()
    parts = [
        f"<h1>{escape(title)}</h1>",
        *(f"<p>{escape(name)}: {escape(text)}</p>" for name, text in notes.items()),
        f'<img alt="curves, aggregates, profiles" src="data:image/png;base64,{image}">',
        "<h2>Aggregates, with 95% intervals</h2>",
        _html_table(["group", "runs", "updates", *names], aggregates),
        "<h2>Probability that a run of the row is better than one of the column</h2>",
        _html_table(["", *groups], pairs),
        "<h2>Runs</h2>",
        _html_table(["group", "task", "run", "updates", "score"], _scores(comparison)),
    ]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    return f"<!doctype html>\n<html><head>{head}</head><body>\n" + "\n".join(parts) + "\n</body></html>\n"


def _html_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(return_text(x) if isinstance(x, float) else str(x))}</td>' for x in row)}</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _updates(comparison: Comparison, group: str) -> str:
    """Updates before the scores of a group: a number, or the smallest and the greatest."""
    updates = [comparison.behind[run.name] for run in comparison.groups[group]]
    return "-".join(f"{n:,}" for n in sorted({min(updates), max(updates)}))


def _whole(one: Interval, written: Callable[[float], str] = return_text) -> str:
    return f"{written(one.value)} ({_ends(one, 1.0, written)})"


def _ends(one: Interval, unit: float, written: Callable[[float], str] = return_text) -> str:
    return "-" if math.isnan(one.low) else f"{written(one.low / unit)} .. {written(one.high / unit)}"


def _two_digits(value: float) -> str:
    return f"{value:.2f}"
