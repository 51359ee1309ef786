"""Boards as they might as well have been seen: turned and reflected.

A symmetry is a permutation of the cells, counted row by row from the top left: entry `j` is the cell whose contents are
seen at `j`. The first one leaves all as it is. Letters: `G` symmetries, `N` cells, `A` actions, `B` boards.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mirror(rows: int, columns: int) -> Tensor:
    """Int64 `[2, N]`: the board, and with left and right exchanged, which is all that a board with gravity has."""
    cells = torch.arange(rows * columns).view(rows, columns)
    return torch.stack([cells, cells.flip(1)]).flatten(1)


def square(side: int) -> Tensor:
    """Int64 `[8, N]`: the turns of a square board, then those of its reflection.

    Source: Silver et al. 2017, "Mastering the Game of Go without Human Knowledge"
    (https://doi.org/10.1038/nature24270), methods.
    """
    cells = torch.arange(side * side).view(side, side)
    turns = [torch.rot90(board, k) for board in (cells, cells.flip(1)) for k in range(4)]
    return torch.stack(turns).flatten(1)


def of_columns(symmetries: Tensor, columns: int) -> Tensor:
    """How actions that are columns, as where stones fall, change with the cells: int64 `[G, columns]`.

    Args:
        symmetries: int64 `[G, N]`, which leave every cell in its row.
        columns: width of the board.
    """
    return symmetries[:, :columns]  # the top row


def permuted(entries: Tensor, symmetry: Tensor) -> Tensor:
    """`[..., B, N, C]` entries of cells, or of actions, by one permutation `[B, N]` for each board."""
    number = torch.arange(len(symmetry), device=symmetry.device).unsqueeze(1)
    return entries[..., number, symmetry, :]


def followed(places: Tensor, symmetry: Tensor) -> Tensor:
    """Where what is at places, int64 `[..., B]`, is seen after one permutation `[B, N]` for each board."""
    number = torch.arange(len(symmetry), device=symmetry.device)
    return symmetry.argsort(-1)[number.expand(places.shape), places]
