"""Moves that a model of connect four is taught wins by, and that it learns them."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import known_wins

from datamodules.envs.board_rules import CONNECT_FOUR as RULES


def test_half_of_the_moves_win_and_the_rules_agree_with_all() -> None:
    moves = known_wins.drawn_moves(60, 0)
    assert moves.board.shape == (60, 84)
    assert int(moves.wins.sum()) == 30
    for board, action, wins in zip(
        moves.board.unflatten(1, (42, 2)).tolist(), moves.action.tolist(), moves.wins, strict=True
    ):
        own, other = (sum(1 << bit for bit, cell in zip(RULES.bits, board, strict=True) if cell[k]) for k in (0, 1))
        assert own.bit_count() - other.bit_count() in (0, -1)
        assert RULES.is_legal(own | other, action)
        assert RULES.won(RULES.played(own, other, action)) == bool(wins)
    assert torch.equal(known_wins.drawn_moves(60, 0).board, moves.board)


def test_a_model_learns_the_moves_that_it_is_taught() -> None:
    torch.manual_seed(0)
    moves, model = known_wins.drawn_moves(12, 0), known_wins.make_model(channels=4, blocks=0)
    before = known_wins.judged(model, moves)
    known_wins.taught(model, moves, 60)
    assert before == (0.0, 0.0)
    known, mistaken = known_wins.judged(model, moves)
    assert known > mistaken + 0.6
