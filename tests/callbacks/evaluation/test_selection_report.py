"""The picture of a selection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from callbacks.evaluation import selection_report
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
