"""Tic-tac-toe as a model of its own rules, and its minimax."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor

from modules.search.interface import Root, Step

LINES = torch.tensor([[0, 1, 2], [3, 4, 5], [6, 7, 8], [0, 3, 6], [1, 4, 7], [2, 5, 8], [0, 4, 8], [2, 4, 6]])


def board(text: str) -> Tensor:
    """`[9]` of 1 for `x`, who moves, and -1 for `o`."""
    return torch.tensor([{"x": 1.0, "o": -1.0}.get(c, 0.0) for c in text.replace("/", "")])


def root(boards: Tensor) -> Root:
    """Boards `[B, 9]`, as who moves sees them; the model knows no more of them than the rules."""
    rows = len(boards)
    return Root(torch.zeros(rows, 9), torch.zeros(rows), boards, valid=boards == 0)


def step(boards: Tensor, action: Tensor, noise: Any) -> Step:
    """A stone is set; the board is turned over to the other player, whose gains count against this one."""
    rows = torch.arange(len(boards))
    after = boards.clone()
    after[rows, action] = 1.0
    won = (after[:, LINES].sum(-1) == 3).any(-1)
    over = won | (after != 0).all(-1) | (boards[rows, action] != 0)
    zeros = torch.zeros(len(boards))
    return Step(won.float(), torch.where(over, 0.0, -1.0), torch.zeros(len(boards), 9), zeros, -after, valid=after == 0)


@cache
def minimax(cells: tuple[float, ...]) -> tuple[float, frozenset[int]]:
    """Value of a board for who moves, and the moves that reach it."""
    best, moves = -math.inf, frozenset[int]()
    for move in (i for i, c in enumerate(cells) if c == 0):
        after = [*cells]
        after[move] = 1.0
        won = any(all(after[i] == 1.0 for i in line) for line in LINES.tolist())
        full = 0.0 not in after
        value = 1.0 if won else 0.0 if full else -minimax(tuple(-c for c in after))[0]
        if value >= best:
            moves = frozenset({move}) | (moves if value == best else frozenset())
            best = value
    return best, moves
