"""The picture of a selection."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from callbacks.evaluation import selection_report
from callbacks.evaluation.report import Score, score_table
from callbacks.evaluation.selection import Judged, Selection
from modules.functional.bandits import Spent
from modules.functional.choosing import Choice, Interval


def judged(run: str, setting: float, value: float) -> Judged:
    """A member of a run, by its beta."""
    return Judged(
        name=f"{run} beta={setting:g}", member=f"beta={setting:g}", checkpoint=f"runs/{run}/last.ckpt",
        algorithm="ATAC", hyperparameter="beta", setting=setting, is_clone=False, value=value, low=value - 1.0,
        high=value + 1.0, gain=None, tournament=value, bellman_error=0.1, advantage_gap=0.1, gap_source="own critics",
        distance=0.1, log_likelihood=None,
    )  # fmt: skip


def drawn(rows: list[Judged], path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The axes on which these are drawn, of which the second is chosen."""
    none = Interval(0.0, 0.0, 0.0)
    choice = Choice(1, 1, 0, [none] * len(rows), none, None, None, True)
    selection = Selection(rows, [], choice, 0, none, 0.0, 0.0, 1, 1, [], {})
    figure, axes = selection_report.new_figure()
    with monkeypatch.context() as patched:
        patched.setattr(selection_report, "new_figure", lambda: (figure, axes))
        selection_report.draw_values(selection, path)
    assert path.stat().st_size > 1000
    return axes


@pytest.mark.parametrize(("scale", "unit"), [(1.0, ""), (1e8, " (returns in 1e+09)"), (1e-7, " (returns in 1e-06)")])
def test_names_have_the_same_room_whatever_the_unit_of_rewards(scale: float, unit: str) -> None:
    name = "atac/beta=4/seed=0"
    row = replace(
        judged(name, 1.0, 123.456 * scale), name=name, low=-99.5 * scale, gain=12.3, tournament=-123.4 * scale,
        bellman_error=1.25 * scale, advantage_gap=0.125 * scale, log_likelihood=-12.25,
    )  # fmt: skip
    behaviour = Interval(100.0 * scale, 90.0 * scale, 110.0 * scale)
    choice = Choice(0, 0, 0, [behaviour], behaviour, None, None, True)
    table = selection_report.selection_table(
        Selection([row], [], choice, 0, behaviour, 0.0, 0.0, 1, 1, [], {}), "values"
    )
    text = io.StringIO()
    Console(file=text, width=80).print(table)
    assert f"* {name}" in text.getvalue()  # on one line
    assert str(table.columns[0].header) == f"policy{unit}"
    shown = [float(str([*column.cells][1])) for column in table.columns[1:3]]
    assert shown == pytest.approx([123.5, -99.5] if scale == 1.0 else [12.35, -9.95], rel=1e-3)
    # The table of an evaluation has the same units.
    score = Score(20_000, "last", name, "", 3, 123.456 * scale, -99.5 * scale, 130.0 * scale)
    text = io.StringIO()
    Console(file=text, width=80).print(table := score_table([score], "returns"))
    assert f"{name} " in text.getvalue()
    assert str(table.columns[0].header) == f"policy{unit}"
    assert ("123.5" if scale == 1.0 else "-9.95 .. 13.0") in text.getvalue()


def test_agents_of_several_runs_are_told_apart_along_the_axis_of_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [judged(run, beta, beta) for run in ("first", "second") for beta in (1.0, 4.0)]
    axes = drawn(rows, tmp_path / "a.png", monkeypatch)
    labels = axes.get_legend_handles_labels()[1]
    assert [label for label in labels if label in ("first", "second", "chosen")] == ["chosen", "first", "second"]
    assert len({bars.lines[0].get_color() for bars in axes.containers}) == 2
    # One run alone needs no name.
    axes = drawn(rows[:2], tmp_path / "b.png", monkeypatch)
    assert "fitted value, 95% interval" in axes.get_legend_handles_labels()[1]
    assert len({bars.lines[0].get_color() for bars in axes.containers}) == 1


def test_episodes_are_counted_in_whole_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure, axes = selection_report.new_figure()
    monkeypatch.setattr(selection_report, "new_figure", lambda: (figure, axes))
    spent = [Spent(arm, 1.0, 0, 1.0) for arm in (0, 1, 0, 1)]
    selection_report.draw_budget(spent, ["a", "b"], tmp_path / "c.png")
    assert all(float(tick).is_integer() for tick in axes.get_xticks())
