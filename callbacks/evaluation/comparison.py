"""A comparison of groups of runs: aggregates with intervals, profiles, who is better, and learning curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from callbacks.evaluation.compared import ComparedRun, Task
from callbacks.evaluation.report import Score
from modules.functional.aggregate_scores import (
    Scores,
    mean_score,
    median_score,
    optimality_gap,
    pooled_interquartile_mean,
    probability_of_improvement,
    share_above,
)
from modules.functional.statistics import stratified_interval

Kind = Literal["last", "best", "curve"]
"""The score of a run: of its last policy, its best checkpoint, or the last regular evaluation that all runs reached."""

POINTS = 50
"""Moments of a curve whose runs were evaluated at different ones, and thresholds of a profile."""

GAP = "optimality gap"


class Interval(NamedTuple):
    """A number and its 95% bootstrap interval; NaN ends where one run of a task leaves nothing to draw from."""

    value: float
    low: float
    high: float


class Band(NamedTuple):
    """A line and its 95% interval, `[K]` each, over `x`."""

    x: np.ndarray
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """Everything that is told of groups of runs.

    Attributes:
        kind: what the score of a run is.
        unit: unit of scores, for people.
        tasks: the tasks.
        groups: runs by group.
        scores: `[N]` scores of each task, by group.
        behind: updates before the score, by name of the run.
        aggregates: by group and name of the aggregate.
        profiles: share of runs above a score, by group.
        improvement: probability that a run of the first group is better than one of the second.
        curves: interquartile mean of runs, by axis and group.
        missing: axes without curves, and why.
    """

    kind: Kind
    unit: str
    tasks: Sequence[Task]
    groups: Mapping[str, Sequence[ComparedRun]]
    scores: Mapping[str, Scores]
    behind: Mapping[str, int]
    aggregates: Mapping[str, Mapping[str, Interval]]
    profiles: Mapping[str, Band]
    improvement: Mapping[tuple[str, str], Interval]
    curves: Mapping[str, Mapping[str, Band]]
    missing: Mapping[str, str]


def compare_groups(
    groups: Mapping[str, Sequence[ComparedRun]], kind: Kind, target: float | None, resamples: int, seed: int
) -> Comparison:
    """Compare groups by the protocol of Agarwal et al. 2021; every interval is a bootstrap stratified by task.

    Scores are normalised where all runs have references, else returns.

    Args:
        groups: runs by group, each with a score of that kind.
        kind: what the score of a run is.
        target: score that counts as solved, for the optimality gap; by default 100 where scores are normalised, and no
            gap otherwise.
        resamples: draws of each bootstrap.
        seed: seed of the draws.

    Raises:
        ValueError: runs are of several tasks and their scores have no common unit, or a group lacks a task.
    """
    # The scores of each group on each task.
    runs = [run for members in groups.values() for run in members]
    tasks = list(dict.fromkeys(run.task for run in runs))
    normalised = all(score.normalized is not None for run in runs for score in (*run.rows(kind), *run.rows("curve")))
    _check_tasks(groups, tasks, normalised)
    common = last_common(runs) if kind == "curve" else None
    found = {run.name: _scored(run, kind, common) for run in runs}
    scores = {
        name: [np.array([_value(found[run.name], normalised) for run in members if run.task == task]) for task in tasks]
        for name, members in groups.items()
    }
    interval = partial(_interval, resamples=resamples, seed=seed)

    # Aggregates, who is better, and profiles.
    target = 100.0 if target is None and normalised else target
    statistics: dict[str, Callable[[Scores], np.ndarray]] = {
        "IQM": pooled_interquartile_mean, "median": median_score, "mean": mean_score,
    }  # fmt: skip
    if target is not None:
        statistics[GAP] = partial(optimality_gap, target=target)
    pairs = [(one, other) for one in groups for other in groups if one != other]
    count = len(tasks)
    improvement = {
        (one, other): interval(
            [*scores[one], *scores[other]], lambda both: probability_of_improvement(both[:count], both[count:])
        )
        for one, other in pairs
    }
    curves, missing = _curves(groups, tasks, normalised, resamples, seed)
    return Comparison(
        kind=kind,
        unit="normalised return, %" if normalised else "return",
        tasks=tasks,
        groups=groups,
        scores=scores,
        behind={name: score.updates for name, score in found.items()},
        aggregates={name: {k: interval(of, f) for k, f in statistics.items()} for name, of in scores.items()},
        profiles=_profiles(scores, resamples, seed),
        improvement=improvement,
        curves=curves,
        missing=missing,
    )


def last_common(runs: Sequence[ComparedRun]) -> int:
    """Updates before the last regular evaluation of the run that got least far."""
    return min(max(score.updates for score in run.rows("curve")) for run in runs)


def _scored(run: ComparedRun, kind: Kind, common: int | None) -> Score:
    """The score of a run: the newest of its kind, behind at most `common` updates where that is given."""
    rows = run.rows(kind)
    reached = [score for score in rows if common is None or score.updates <= common]
    return reached[-1] if reached else rows[0]


def _value(score: Score, normalised: bool) -> float:
    value = score.normalized if normalised else score.mean
    assert value is not None
    return float(value)


def _check_tasks(groups: Mapping[str, Sequence[ComparedRun]], tasks: Sequence[Task], normalised: bool) -> None:
    """Refuse several tasks without a common unit, and groups that were not trained on all of them."""
    if len(tasks) == 1:
        return
    if not normalised:
        raise ValueError(
            "returns of different tasks have no common unit, and not all runs have references: give returns of a "
            "random policy and of an expert by environment, --references '{\"" + tasks[0].environment + "\": [0, 1]}'"
        )
    for name, members in groups.items():
        lacking = [task.label for task in tasks if all(run.task != task for run in members)]
        if lacking:
            raise ValueError(
                f"no run of '{name}' is on {', '.join(lacking[:3])}: groups are compared on the same tasks. Where a "
                "setting differs between tasks alone, say which ones make a group, such as --by model.class_path"
            )


def _ends(
    scores: Scores, statistic: Callable[[Scores], np.ndarray], value: np.ndarray, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the interval of a statistic, whose value is given; NaN where one run of a task leaves nothing to draw."""
    if max(map(len, scores)) < 2:
        nothing = np.full_like(value, np.nan)
        return nothing, nothing
    return stratified_interval(scores, statistic, resamples=resamples, seed=seed)


def _interval(scores: Scores, statistic: Callable[[Scores], np.ndarray], resamples: int, seed: int) -> Interval:
    value = statistic(scores)
    return Interval(float(value), *map(float, _ends(scores, statistic, value, resamples, seed)))


def _band(x: np.ndarray, scores: Sequence[np.ndarray], resamples: int, seed: int) -> Band:
    """Interquartile mean of curves `[N, K]` of each task, whose runs are drawn as a whole."""
    numbers = [np.arange(len(task)) for task in scores]

    def middle(drawn: Sequence[np.ndarray]) -> np.ndarray:
        return pooled_interquartile_mean(
            [task.T[:, rows.astype(np.int64)].swapaxes(0, 1) for task, rows in zip(scores, drawn, strict=True)]
        )

    value = pooled_interquartile_mean([task.T for task in scores])
    return Band(x, value, *_ends(numbers, middle, value, resamples, seed))


def _profiles(scores: Mapping[str, Scores], resamples: int, seed: int) -> dict[str, Band]:
    """Shares of runs above thresholds from below the lowest to the highest score of all groups."""
    every = np.concatenate([task for of in scores.values() for task in of])
    margin = 0.02 * (np.ptp(every) or 1.0)
    thresholds = np.linspace(every.min() - margin, every.max(), 2 * POINTS)
    statistic = partial(share_above, thresholds=thresholds)
    shares = {name: statistic(of) for name, of in scores.items()}
    return {
        name: Band(thresholds, share, *_ends(scores[name], statistic, share, resamples, seed))
        for name, share in shares.items()
    }


# --------------------------------------------------------------------------------------------------------------- curves
def _curves(
    groups: Mapping[str, Sequence[ComparedRun]], tasks: Sequence[Task], normalised: bool, resamples: int, seed: int
) -> tuple[dict[str, dict[str, Band]], dict[str, str]]:
    """Curves of all groups over every axis that all runs know, and why others are missing."""
    curves: dict[str, dict[str, Band]] = {}
    missing: dict[str, str] = {}
    for axis, moments in (("updates", _updates), ("environment steps", _steps), ("wall time, s", _seconds)):
        known = {run.name: x for members in groups.values() for run in members if (x := moments(run)) is not None}
        without = [run.name for members in groups.values() for run in members if run.name not in known]
        if not known and moments is _steps:  # recorded data alone
            continue
        if without:
            missing[axis] = f"not known of {without[0]}{f' and {len(without) - 1} more' if without[1:] else ''}"
            continue
        curves[axis] = {}
        for name, members in groups.items():
            lines = {run.name: np.array([_value(s, normalised) for s in run.rows("curve")]) for run in members}
            x = _common([known[run.name] for run in members])
            if x is None:
                missing[axis] = f"evaluations of {name} have no moment in common"
                continue
            of_tasks = [
                np.stack([np.interp(x, known[run.name], lines[run.name]) for run in members if run.task == task])
                for task in tasks
            ]
            curves[axis][name] = _band(x, of_tasks, resamples, seed)
    return curves, missing


def _updates(run: ComparedRun) -> np.ndarray | None:
    rows = run.rows("curve")
    return np.array([score.updates for score in rows], dtype=np.float64) if rows else None


def _steps(run: ComparedRun) -> np.ndarray | None:
    steps = np.array([score.environment_steps for score in run.rows("curve")], dtype=np.float64)
    return steps if steps.any() else None


def _seconds(run: ComparedRun) -> np.ndarray | None:
    """Seconds of training until each evaluation; behind the last known moment as fast as on average."""
    updates = _updates(run)
    if updates is None or not run.seconds:
        return None
    at, passed = (np.array([0.0, *column]) for column in zip(*run.seconds, strict=True))
    beyond = np.maximum(updates - at[-1], 0.0) * passed[-1] / at[-1]
    return np.interp(updates, at, passed) + beyond


def _common(known: Sequence[np.ndarray]) -> np.ndarray | None:
    """The moments of all runs where they are the same, else evenly spaced ones of the range that all have."""
    if all(np.array_equal(x, known[0]) for x in known):
        return known[0]
    first, last = max(x[0] for x in known), min(x[-1] for x in known)
    return np.linspace(first, last, POINTS) if first <= last else None
