"""The best moves of a board game by minimax: exact as far as it looks, by counted lines behind that."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from datamodules.envs.board_rules import Rules

WIN = 10_000
"""Score of a win before any stone is set; each stone takes 1, so that early wins and late losses are preferred."""

KNOWN_POSITIONS = 1 << 16
"""Positions whose best moves are kept."""


class BestMoves(NamedTuple):
    """Findings of minimax.

    Attributes:
        score: of the position for who moves, a whole number: above `WIN / 2` a win that is seen, below `-WIN / 2` a
            loss, 0 a draw.
        moves: all moves that reach it, in ascending order.
    """

    score: int
    moves: tuple[int, ...]


@functools.lru_cache(KNOWN_POSITIONS)
def best_moves(rules: Rules, own: int, other: int, depth: int) -> BestMoves:
    """The best moves of a position that is not over.

    Args:
        rules: the game.
        own: stones of who moves.
        other: stones of the other player.
        depth: moves that are looked ahead, this one included, at least 1; with as many as there are free cells the play
            is perfect.

    Raises:
        ValueError: there is no legal move.
    """
    stones = own | other
    if rules.full(stones):
        raise ValueError("the board is full: there is no move")
    horizon = min(stones.bit_count() + depth, rules.cells)
    search = _AlphaBeta(rules, horizon)
    best, moves = -math.inf, []
    for action in rules.central_first:
        if rules.is_legal(stones, action):
            # Below the best by one, so that the score of an equally good move is exact.
            score = search.after(own, other, action, best - 1, math.inf)
            if score > best:
                best, moves = score, [action]
            elif score == best:
                moves.append(action)
    return BestMoves(int(best), tuple(sorted(moves)))


def lines_ahead(rules: Rules, own: int, other: int) -> int:
    """Squares of the stones in every line that only one player has stones in, the other player's subtracted."""
    score = 0
    for line in rules.lines:
        mine, theirs = own & line, other & line
        if not theirs:
            score += mine.bit_count() ** 2
        elif not mine:
            score -= theirs.bit_count() ** 2
    return score


class _AlphaBeta:
    """Negamax with alpha-beta cuts, and a table of positions that are reached in more than one order.

    Args:
        rules: the game.
        horizon: number of stones on the board at which positions are no longer played on.
    """

    def __init__(self, rules: Rules, horizon: int) -> None:
        self.rules = rules
        self.horizon = horizon
        self.bounds: dict[tuple[int, int], tuple[float, float]] = {}

    def after(self, own: int, other: int, action: int, alpha: float, beta: float) -> float:
        """Score of a legal action for who plays it, exact between alpha and beta, else a bound of it."""
        rules = self.rules
        mine = rules.played(own, other, action)
        count = (mine | other).bit_count()
        if rules.won(mine):
            return WIN - count
        if count == rules.cells:
            return 0
        if count >= self.horizon:
            return lines_ahead(rules, mine, other)
        return -self._position(other, mine, -beta, -alpha)

    def _position(self, own: int, other: int, alpha: float, beta: float) -> float:
        """Score of a position for who moves."""
        low, high = self.bounds.get((own, other), (-math.inf, math.inf))
        if low >= beta or low == high:
            return low
        if high <= alpha:
            return high
        alpha, beta = max(alpha, low), min(beta, high)
        best, stones = -math.inf, own | other
        for action in self.rules.central_first:
            if self.rules.is_legal(stones, action):
                best = max(best, self.after(own, other, action, max(alpha, best), beta))
                if best >= beta:
                    break
        self.bounds[own, other] = (best if best > alpha else low, best if best < beta else high)
        return best
