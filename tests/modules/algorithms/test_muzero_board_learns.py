"""MuZero learns tic-tac-toe by games against itself, judged by its moves in all positions."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from runs_in_parts import last_agent

import reverie

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))
import sound_moves


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_most_moves_keep_what_a_position_is_worth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After 14 of 25 epochs; without openings it was 63%, and by chance it would be 40%."""
    monkeypatch.chdir(tmp_path)
    fit = ["fit", "--config", "muzero/tictactoe", "--trainer.logger", "false", "--trainer.max_epochs", "14"]
    reverie.main([*fit, "--run_dir", str(tmp_path / "runs")])
    agent = last_agent(tmp_path / "runs")
    assert sound_moves.shares(sound_moves.positions(), sound_moves.player(agent))["all"] > 0.78
