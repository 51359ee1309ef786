"""Self-play of capture the flag leaves its own past behind."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

import reverie
from callbacks.self_play import gain_of


@pytest.mark.slow
def test_the_last_weights_are_200_points_ahead_of_the_first_that_had_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the preset's run: 192 thousand steps of players, about a minute on one core."""
    monkeypatch.chdir(tmp_path)
    reverie.main(["fit", "--config", "ppo/capture_flag", "--seed_everything", "0", "--trainer.max_epochs", "3",
                  "--evaluation.every_n_epochs", "3", "--evaluation.final_episodes", "10", "--run_dir",
                  "run"])  # fmt: skip
    (run,) = Path("run").iterdir()
    with (run / "ratings.csv").open() as file:
        rows = [{**row, **{name: float(row[name]) for name in ("updates", "rating")}} for row in csv.DictReader(file)]
    assert [row["updates"] for row in rows] == [0, 5, 10, 15, 20, 25, 30, -1, -1]
    assert gain_of(rows) >= 200.0
    assert float(rows[6]["points against random"]) > 0.9
