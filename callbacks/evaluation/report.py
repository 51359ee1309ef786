"""The report of an evaluation: named statistics, a CSV file, a learning curve and a table on the screen."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.utilities import rank_zero_warn
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from callbacks.evaluation.rollout import Rollouts
from callbacks.files.pictures import save_picture
from callbacks.files.written_aside import written_aside
from datamodules.envs.episode_infos import mean_numbers, return_text, written
from datamodules.recorded.dataset_info import DatasetInfo
from modules.functional.statistics import bootstrap_interval

BASELINES = ("behaviour", "random")
"""Kinds of scores that no training led to."""

FINAL = "final_evaluation.json"
"""File in a run's folder; as long as it is not there, the run has not ended."""

LOOK: dict[str, Any] = {
    "title_justify": "left",
    "box": box.SIMPLE_HEAD,
    "padding": 0,
    "show_edge": False,
}


@dataclass(frozen=True)
class Score:
    """Mean return of one member, or of the population, at one moment of training.

    Attributes:
        updates: gradient updates before the evaluation.
        kind: `curve` for the regular evaluations, `phase` at the end of a training phase, `last`, `best`, `test`;
            the baselines are `behaviour`, the dataset's own episodes, and `random`, a policy of random actions.
        label: name in the table.
        member: name of the member; empty for a population of one and for the mean over living members.
        count: episodes behind the mean; members for the mean over members.
        mean: undiscounted return, in the environment's units.
        low: lower end of the 95% bootstrap interval over those `count` values.
        high: upper end.
        normalized: mean in percent of the reference scores; None without references.
        normalized_low: lower end in percent.
        normalized_high: upper end in percent.
        environment_steps: steps that all processes had collected before the evaluation; 0 for a run on a dataset.
        deviation: standard deviation of those `count` values, with `count - 1` in the divisor; 0 of a single one.
        numbers: numbers that the environment reported of the episodes: `success_rate`, and means by name.
    """

    updates: int
    kind: str
    label: str
    member: str
    count: int
    mean: float
    low: float
    high: float
    normalized: float | None = None
    normalized_low: float | None = None
    normalized_high: float | None = None
    environment_steps: int = 0
    deviation: float = 0.0
    numbers: Mapping[str, float] = field(default_factory=dict)

    def metrics(self, group: str) -> dict[str, float]:
        """`group/member/return` and its interval, `success_rate` and the like; normalised ones with references."""
        prefix = f"{group}/{self.member}" if self.member else group
        values = {**self.numbers, "return": self.mean, "return/low": self.low, "return/high": self.high}
        if self.normalized is not None and self.normalized_low is not None and self.normalized_high is not None:
            values["normalized_return"] = self.normalized
            values["normalized_return/low"] = self.normalized_low
            values["normalized_return/high"] = self.normalized_high
        return {f"{prefix}/{name}": value for name, value in values.items()}


def scores_of(rollouts: Rollouts, names: Sequence[str], info: DatasetInfo | None, **where: Any) -> list[Score]:
    """One score per living member; with several members, the mean over the living ones comes first.

    The interval of a member is over its episodes, that of the population over the members' means.

    Args:
        rollouts: returns `[M, E]`, NaN rows for members that are not alive.
        names: `M` member names.
        info: the dataset whose references normalise, or None.
        **where: `updates`, `environment_steps`, `kind` and `label` of every score.
    """
    scores = [
        score(returns, info, member=name, numbers=mean_numbers(numbers), **where)
        for name, returns, numbers in zip(names, rollouts.returns, rollouts.numbers, strict=True)
        if np.isfinite(returns).all()
    ]
    if len(names) == 1 or not scores:
        return scores
    means = mean_numbers([dict(s.numbers) for s in scores])
    return [score(np.array([s.mean for s in scores]), info, member="", numbers=means, **where), *scores]


def score(values: np.ndarray, info: DatasetInfo | None, **where: Any) -> Score:
    """Mean and 95% interval of finite returns `[N]`; `where` gives the other fields of the score."""
    low, high = bootstrap_interval(values)
    raw = np.array([values.mean(), low, high])
    if info is None or info.reference_min is None or info.reference_max is None:
        normalized = [None, None, None]
    else:
        normalized = info.normalized(raw).tolist()
    mean, low, high = raw.tolist()
    return Score(
        count=len(values),
        deviation=float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        mean=mean,
        low=low,
        high=high,
        normalized=normalized[0],
        normalized_low=normalized[1],
        normalized_high=normalized[2],
        **where,
    )


def write_csv(scores: Sequence[Score], path: Path) -> None:
    """All scores, one per line, with a column for each number of the episodes; the file is replaced as a whole."""
    columns = [column.name for column in fields(Score) if column.name != "numbers"]
    told = [name for s in scores for name in s.numbers if name not in columns]
    with written_aside(path) as aside, aside.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*columns, *dict.fromkeys(told)], extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**s.numbers, **asdict(s)} for s in scores)


def write_final(scores: Sequence[Score], updates: int, folder: Path) -> None:
    """The scores that a run ended with, for `read_final`; the file is replaced as a whole."""
    with written_aside(folder / FINAL) as aside:
        aside.write_text(json.dumps({"updates": updates, "scores": [asdict(s) for s in scores]}, indent=1) + "\n")


def read_final(folder: Path, updates: int) -> list[Score] | None:
    """The scores that a run ended with after so many updates, or None where it did not get to them.

    A damaged file counts as none, with a warning: what it held can be played again.
    """
    try:
        reached, scores = final_scores(folder)
    except ValueError as error:
        rank_zero_warn(f"{error} and is written anew")
        return None
    return scores if reached == updates else None


def final_scores(folder: Path) -> tuple[int | None, list[Score]]:
    """The updates after which a run ended, and the scores that it ended with; None and none where it did not.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / FINAL
    if not path.is_file():
        return None, []
    try:
        content = json.loads(path.read_text())
        return content["updates"], [Score(**s) for s in content["scores"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {str(error)[:100]})") from error


def draw_learning_curve(scores: Sequence[Score], baseline: Score | None, title: str, path: Path) -> None:
    """PNG of the mean return with its interval, members as thin lines, the baseline and each phase's end.

    The horizontal axis counts environment steps where the run collected any, and updates otherwise.

    Args:
        scores: scores in the order of training; only kinds `curve` and `phase` are drawn.
        baseline: score that the policy is compared with, such as the dataset's own episodes', or None.
        title: title above the axes.
        path: path of the PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second of imports that only the end needs
    from matplotlib.figure import Figure

    # A canvas of its own, without pyplot, so that no window system and no global state of the user's is touched.
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    online = _is_online(scores)
    unit = "environment steps" if online else "updates"
    curve = [s for s in scores if s.kind == "curve"]
    members = list(dict.fromkeys(s.member for s in curve))
    for index, member in enumerate(members):
        mine = [s for s in curve if s.member == member]
        moments = [_moment(s, online) for s in mine]
        name = member or ("mean of members" if len(members) > 1 else "policy")
        if member:  # bands of many members would hide each other
            axes.plot(moments, [s.mean for s in mine], color=f"C{index % 10}", linewidth=1.0, label=name)
            continue
        axes.plot(moments, [s.mean for s in mine], color="C0", marker="o", markersize=3, zorder=3, label=name)
        axes.fill_between(moments, [s.low for s in mine], [s.high for s in mine], color="C0", alpha=0.2, linewidth=0)
    # What the curve is read against: the baseline over all, and each phase's end where it was reached.
    if baseline is not None:
        axes.axhline(baseline.mean, color="0.4", linestyle="--", linewidth=1.2, label=baseline.label)
    for ended in [s for s in scores if s.kind == "phase" and not s.member]:
        moment = _moment(ended, online)
        name = f"{ended.label} (at {moment:,} {unit})"  # the vertical line stands there
        axes.axhline(ended.mean, color="0.1", linestyle=":", linewidth=1.2, label=name)
        axes.axvline(moment, color="0.7", linewidth=1.0, zorder=0)
    axes.set(xlabel=unit, ylabel="mean return, with 95% interval", title=title)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    bottom, top = axes.get_ylim()
    axes.yaxis.set_major_formatter("{x:,.0f}" if top - bottom >= 5 else "{x:,.2f}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2)
    axes.legend(frameon=False, fontsize=8, ncols=1 + len(members) // 7)
    save_picture(figure, path, 130)


def unit_of(values: Iterable[float | None]) -> float:
    """The power of a thousand that numbers are divided by in a table, so that the largest of them is short.

    It is 1 where the largest is from a thousandth to a million. Wide columns would fold the names beside them.
    """
    largest = max((abs(x) for x in values if x is not None and math.isfinite(x)), default=0.0)
    if largest == 0.0 or 1e-3 <= largest < 1e6:
        return 1.0
    return 1000.0 ** math.floor(math.log10(largest) / 3.0)


def policy_heading(unit: float) -> str:
    """Head of the first column, which tells the unit of the others where it is not 1."""
    return "policy" if unit == 1.0 else f"policy (returns in {unit:g})"


def score_table(scores: Sequence[Score], title: str) -> Table:
    """One row per score, in 80 columns.

    The normalised column gives way to environment steps where the run collected some; both are there if it has both.
    Success has a column where it is known, in percent; other numbers of the episodes are in `other_numbers`.
    """
    online = _is_online(scores)
    normalised = not online or any(s.normalized is not None for s in scores)
    table = Table(title=Text(title, "bold"), **LOOK)
    unit = unit_of(x for s in scores for x in (s.mean, s.low, s.high))
    table.add_column(policy_heading(unit), overflow="fold")
    names = ["updates", *(["env. steps"] if online else []), "return", "95% interval"]
    succeeded = any("success_rate" in s.numbers for s in scores)
    for name in (*names, *(["normalised"] if normalised else []), *(["success"] if succeeded else []), "of"):
        table.add_column(name, justify="right", no_wrap=True)
    for s in scores:
        cells = ["" if s.kind in BASELINES else f"{s.updates:,}"]
        if online:
            cells.append("" if s.kind in BASELINES else f"{s.environment_steps:,}")
        mean, low, high = (x / unit for x in (s.mean, s.low, s.high))
        cells += [return_text(mean), f"{return_text(low)} .. {return_text(high)}"]
        if normalised:
            cells.append("-" if s.normalized is None else f"{s.normalized:.1f}")
        if succeeded:
            cells.append(written("success_rate", s.numbers["success_rate"]) if "success_rate" in s.numbers else "-")
        counted = "members" if _is_population(s, scores) else "episodes"
        who = Text(f" {s.member}", "dim") if s.member else Text(s.label)  # members stand below their mean
        table.add_row(who, *cells, f"{s.count:,} {counted}")
    return table


def other_numbers(scores: Sequence[Score]) -> dict[str, str]:
    """Lines for below `score_table`: means of numbers of the episodes that have no column, by policy."""
    told = {
        " ".join(filter(None, (s.label, s.member))): {k: v for k, v in s.numbers.items() if k != "success_rate"}
        for s in scores
    }
    lines = {who: ", ".join(f"{k} {written(k, v)}" for k, v in numbers.items()) for who, numbers in told.items()}
    return {who: line for who, line in lines.items() if line}


def loss_table(values: Mapping[str, float], title: str) -> Table:
    """The last held-out losses of a run without an environment, by name."""
    table = Table(title=Text(title, "bold"), **LOOK)
    table.add_column("held-out loss", overflow="fold")
    table.add_column("last", justify="right", no_wrap=True)
    for name, value in values.items():
        if name.startswith("validation/"):
            table.add_row(name, f"{value:.4g}")
    return table


def print_table(table: Table, footer: Mapping[str, str], console: Console | None = None) -> None:
    """The table, then `name: value` lines that are never folded, so that they can be copied."""
    console = console or Console()
    console.print(table)
    for name, value in footer.items():
        console.print(f"{name}: {value}", soft_wrap=True, markup=False, highlight=False)


def markdown(table: Table, limit: int = 6000) -> str:
    """The table as Markdown; rows beyond so many characters are counted."""
    columns = [[str(cell) for cell in (c.header, *c.cells)] for c in table.columns]
    header, *rows = ("| " + " | ".join(cells) + " |" for cells in zip(*columns, strict=True))
    lines = [header, "| --- |" + " ---: |" * (len(columns) - 1)]
    while rows and len("\n".join(lines)) + len(rows[0]) < limit:
        lines.append(rows.pop(0))
    if rows:
        lines += ["", f"and {len(rows)} more rows, all of them in `evaluation.csv`"]
    return "\n".join(lines)


def _is_population(candidate: Score, scores: Sequence[Score]) -> bool:
    return not candidate.member and any(s.member and s.kind == candidate.kind for s in scores)


def _is_online(scores: Sequence[Score]) -> bool:
    return any(s.environment_steps for s in scores)


def _moment(at: Score, online: bool) -> int:
    return at.environment_steps if online else at.updates
