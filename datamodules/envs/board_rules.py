"""Rules of games in which two players set stones in turn, and whoever has enough of them in a row wins.

A player's stones are a whole number, a bit for each cell. A column takes one bit more than it has cells, always 0, so
that no row of stones runs on from the top of one column to the bottom of the next: then four shifts find all rows.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Rules:
    """One game. Positions are pairs of numbers: the stones of who moves, and those of the other player.

    Attributes:
        rows: height of the board.
        columns: width of the board.
        in_row: stones in a row, a column or a diagonal that win.
        drops: whether an action is a column, in which the stone falls; else it is a cell, counted row by row from the
            top left.
    """

    rows: int
    columns: int
    in_row: int
    drops: bool

    @property
    def cells(self) -> int:
        """Number of cells."""
        return self.rows * self.columns

    @property
    def actions(self) -> int:
        """Number of actions."""
        return self.columns if self.drops else self.cells

    @functools.cached_property
    def bits(self) -> tuple[int, ...]:
        """Place of each cell's bit, row by row from the top left."""
        places = [(row, column) for row in range(self.rows) for column in range(self.columns)]
        return tuple(column * (self.rows + 1) + self.rows - 1 - row for row, column in places)

    @functools.cached_property
    def lines(self) -> tuple[int, ...]:
        """Stones of every line that wins."""
        cells = {(i // self.columns, i % self.columns): 1 << bit for i, bit in enumerate(self.bits)}
        found = []
        for row, column in cells:
            for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
                line = [(row + k * down, column + k * right) for k in range(self.in_row)]
                if all(place in cells for place in line):
                    found.append(sum(cells[place] for place in line))
        return tuple(found)

    @functools.cached_property
    def central_first(self) -> tuple[int, ...]:
        """Actions, those that are part of the most lines first: a search that tries them first ends sooner."""
        whole = [self._column(a) if self.drops else 1 << self.bits[a] for a in range(self.actions)]
        return tuple(sorted(range(self.actions), key=lambda a: -sum(bool(line & whole[a]) for line in self.lines)))

    @functools.cached_property
    def _ends(self) -> tuple[int, ...]:
        """Bit of each action that is set where it is no longer legal."""
        return tuple(1 << self.bits[action] for action in range(self.actions))  # a column is full with its top cell

    def _column(self, column: int) -> int:
        """All cells of a column."""
        return ((1 << self.rows) - 1) << column * (self.rows + 1)

    def is_legal(self, stones: int, action: int) -> bool:
        """Whether there is room for a stone, by the stones of both players."""
        return not stones & self._ends[action]

    def legal(self, stones: int) -> list[int]:
        """Legal actions by the stones of both players; those of a game that is won are not looked at."""
        return [action for action, end in enumerate(self._ends) if not stones & end]

    def played(self, own: int, other: int, action: int) -> int:
        """The stones of who moves after a legal action."""
        if not self.drops:
            return own | 1 << self.bits[action]
        # One more than the stones of a column is its lowest free cell.
        return own | (((own | other) + (1 << action * (self.rows + 1))) & self._column(action))

    def won(self, stones: int) -> bool:
        """Whether a player with these stones has enough in a row."""
        for step in (1, self.rows, self.rows + 1, self.rows + 2):
            ends = stones
            for k in range(1, self.in_row):
                ends &= stones >> k * step
            if ends:
                return True
        return False

    def full(self, stones: int) -> bool:
        """Whether there is room for no stone, by those of both players."""
        return stones.bit_count() == self.cells

    def planes(self, own: int, other: int) -> np.ndarray:
        """`[rows, columns, 2]` int8: own stones, and the other player's."""
        raw = own.to_bytes(8, "little") + other.to_bytes(8, "little")
        spread = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")
        return spread[self._order].view(np.int8)

    @functools.cached_property
    def _order(self) -> np.ndarray:
        """`[rows, columns, 2]` places in the 128 bits of both players."""
        places = np.array(self.bits).reshape(self.rows, self.columns)
        return np.stack([places, 64 + places], -1)


TIC_TAC_TOE = Rules(rows=3, columns=3, in_row=3, drops=False)
CONNECT_FOUR = Rules(rows=6, columns=7, in_row=4, drops=True)
