"""Minimax: known values, forced wins, and a search without any cuts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from datamodules.envs.board_rules import CONNECT_FOUR, TIC_TAC_TOE, Rules
from datamodules.envs.minimax import WIN, BestMoves, best_moves, lines_ahead


def position(rules: Rules, text: str) -> tuple[int, int]:
    """Stones of `x`, who moves, and of `o`, from rows from the top."""
    cells = text.replace("/", "")
    own, other = (sum(1 << bit for bit, c in zip(rules.bits, cells, strict=True) if c == who) for who in "xo")
    return own, other


def plain(rules: Rules, own: int, other: int, depth: int) -> BestMoves:
    """The same by the definition: every move is tried, and nothing is left out or remembered."""
    best, moves = -math.inf, []
    for action in rules.legal(own | other):
        mine = rules.played(own, other, action)
        count = (mine | other).bit_count()
        if rules.won(mine):
            score = WIN - count
        elif rules.full(mine | other):
            score = 0
        elif depth == 1:
            score = lines_ahead(rules, mine, other)
        else:
            score = -plain(rules, other, mine, depth - 1).score
        moves = moves * (score <= best) + [action] * (score >= best)
        best = max(best, score)
    return BestMoves(int(best), tuple(moves))


@pytest.mark.parametrize(("rules", "depths"), [(TIC_TAC_TOE, (1, 2, 4, 9)), (CONNECT_FOUR, (1, 2, 3, 4))])
def test_cuts_and_the_table_change_nothing(rules: Rules, depths: tuple[int, ...]) -> None:
    rng, tried = np.random.default_rng(0), 0
    while tried < 6:
        own = other = 0
        for _ in range(int(rng.integers(3, rules.cells - 1)) if rules.drops else int(rng.integers(3, 7))):
            if rules.won(other) or rules.full(own | other):
                break
            own, other = other, rules.played(own, other, int(rng.choice(rules.legal(own | other))))
        if rules.won(other) or rules.full(own | other):
            continue
        tried += 1
        for depth in depths:
            assert best_moves(rules, own, other, depth) == plain(rules, own, other, depth)


def test_tic_tac_toe_is_a_draw_and_its_replies_are_known() -> None:
    assert best_moves(TIC_TAC_TOE, 0, 0, 9) == (0, tuple(range(9)))
    reply = {0: (4,), 4: (0, 2, 6, 8), 1: (0, 2, 4, 7)}  # to a corner, the centre and an edge
    for first, good in reply.items():
        stones = TIC_TAC_TOE.played(0, 0, first)
        assert best_moves(TIC_TAC_TOE, 0, stones, 9) == (0, good)


def test_perfect_play_draws_whichever_of_the_best_moves_are_drawn() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        own = other = 0
        while not TIC_TAC_TOE.won(other) and not TIC_TAC_TOE.full(own | other):
            move = int(rng.choice(best_moves(TIC_TAC_TOE, own, other, 9).moves))
            own, other = other, TIC_TAC_TOE.played(own, other, move)
        assert not TIC_TAC_TOE.won(other)


EMPTY = "......./"


@pytest.mark.parametrize(
    ("rules", "text", "in_moves", "moves"),
    [
        (TIC_TAC_TOE, "xx./oo./...", 1, (2,)),
        (TIC_TAC_TOE, "x.o/.../o.x", 1, (4,)),  # rather than a block
        (TIC_TAC_TOE, "x../.o./..x", 3, (2, 6)),
        (CONNECT_FOUR, EMPTY * 5 + "xxx.ooo", 1, (3,)),
        (CONNECT_FOUR, EMPTY * 2 + ("x....../" + "x....o./") + "x...oo./" + "o....o.", 1, (0,)),
        (CONNECT_FOUR, EMPTY * 5 + "..xx...", 3, (1, 4)),  # three in a row that is open on both sides
        (CONNECT_FOUR, EMPTY * 5 + "xooo.x.", None, (4,)),
    ],
    ids=["row", "diagonal", "fork", "row of four", "column of four", "open three", "block"],
)
def test_forced_wins_are_found(rules: Rules, text: str, in_moves: int | None, moves: tuple[int, ...]) -> None:
    own, other = position(rules, text)
    stones = (own | other).bit_count()
    deep = best_moves(rules, own, other, 3)
    if in_moves is not None:
        assert deep.score == WIN - stones - in_moves
    assert deep.moves == moves
    if in_moves == 3:
        assert abs(best_moves(rules, own, other, 2).score) < WIN / 2  # beyond what is seen


def test_a_loss_is_put_off_as_long_as_possible() -> None:
    own, other = position(TIC_TAC_TOE, "o.o/x../x..")  # all is lost, and only one move does not lose at once
    assert best_moves(TIC_TAC_TOE, own, other, 2).moves == (1,)
    assert best_moves(TIC_TAC_TOE, own, other, 9) == (-(WIN - 8), (1,))


def test_counted_lines_are_of_opposite_sign_for_the_other_player() -> None:
    own, other = position(TIC_TAC_TOE, "x../.o./...")
    assert lines_ahead(TIC_TAC_TOE, own, other) == 1 + 1 - (1 + 1 + 1)
    assert lines_ahead(TIC_TAC_TOE, other, own) == 1
    row = position(CONNECT_FOUR, EMPTY * 5 + "xx.....")
    assert lines_ahead(CONNECT_FOUR, *row) == sum((row[0] & line).bit_count() ** 2 for line in CONNECT_FOUR.lines)


def test_a_full_board_has_no_move() -> None:
    own, other = position(TIC_TAC_TOE, "xox/xox/oxo")
    with pytest.raises(ValueError, match="no move"):
        best_moves(TIC_TAC_TOE, own, other, 9)
