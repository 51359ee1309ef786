"""Rules of the board games against boards that are walked cell by cell, and the counts that are known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from datamodules.envs.board_rules import CONNECT_FOUR, TIC_TAC_TOE, Rules

GAMES = pytest.mark.parametrize("rules", [TIC_TAC_TOE, CONNECT_FOUR], ids=["tic-tac-toe", "connect four"])


def has_row(cells: np.ndarray, length: int) -> bool:
    """Whether `[rows, columns]` bools have so many in a row, found by walking from every cell in every direction."""
    rows, columns = cells.shape
    for row, column, (down, right) in itertools.product(range(rows), range(columns), [(0, 1), (1, 0), (1, 1), (1, -1)]):
        places = [(row + k * down, column + k * right) for k in range(length)]
        if all(0 <= r < rows and 0 <= c < columns and cells[r, c] for r, c in places):
            return True
    return False


def stones_of(rules: Rules, cells: np.ndarray) -> int:
    return sum(1 << bit for bit, set_ in zip(rules.bits, cells.reshape(-1), strict=True) if set_)


@GAMES
def test_rows_are_found_wherever_they_are_and_nowhere_else(rules: Rules) -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(600):
        cells = rng.random((rules.rows, rules.columns)) < rng.uniform(0.2, 0.7)
        seen.add(expected := has_row(cells, rules.in_row))
        stones = stones_of(rules, cells)
        assert rules.won(stones) == expected
        assert any(line & stones == line for line in rules.lines) == expected
        assert np.array_equal(rules.planes(stones, 0)[..., 0], cells)
        assert np.array_equal(rules.planes(0, stones)[..., 1], cells)
    assert seen == {True, False}
    assert len(rules.lines) == {3: 8, 4: 69}[rules.in_row]


@GAMES
def test_games_at_random_are_those_on_an_array(rules: Rules) -> None:
    rng = np.random.default_rng(1)
    for _ in range(60):
        own = other = 0
        cells = np.zeros((2, rules.rows, rules.columns), bool)  # of who moves, and of the other player
        while True:
            free = ~cells.any(0)
            legal = np.flatnonzero(free[0] if rules.drops else free.reshape(-1)).tolist()
            assert rules.legal(own | other) == legal
            assert [rules.is_legal(own | other, a) for a in range(rules.actions)] == [
                a in legal for a in range(rules.actions)
            ]
            if rules.won(other) or not legal:
                assert rules.full(own | other) == (not legal)
                break
            action = int(rng.choice(legal))
            if rules.drops:
                cells[0, np.flatnonzero(free[:, action])[-1], action] = True
            else:
                cells[0].reshape(-1)[action] = True
            own = rules.played(own, other, action)
            assert np.array_equal(rules.planes(own, other), np.moveaxis(cells, 0, -1))
            own, other, cells = other, own, cells[::-1].copy()


def test_tic_tac_toe_has_5478_positions() -> None:
    reached, new = set(), {(0, 0)}
    while new:
        reached |= new
        new = {
            (other, TIC_TAC_TOE.played(own, other, action))
            for own, other in new
            if not TIC_TAC_TOE.won(other)
            for action in TIC_TAC_TOE.legal(own | other)
        }
    assert len(reached) == 5478  # who moves is known by the number of stones
    assert sum(TIC_TAC_TOE.won(other) for _, other in reached) == 942


def test_connect_four_has_so_many_positions_after_each_of_the_first_moves() -> None:
    counts, new = [], {(0, 0)}
    for _ in range(5):
        counts.append(len(new))
        new = {
            (other, CONNECT_FOUR.played(own, other, a)) for own, other in new for a in CONNECT_FOUR.legal(own | other)
        }
    assert counts == [1, 7, 49, 238, 1120]  # https://oeis.org/A212693
