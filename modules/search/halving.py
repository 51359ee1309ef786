"""Sequential halving without phases: a table of the visits that a slot must have to be tried."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor


@cache
def considered_visits(most: int, simulations: int) -> tuple[tuple[int, ...], ...]:
    """`[most + 1, simulations + 1]` visits that slots must have, by how many are considered and by the visits so far.

    Halving tries all considered slots equally often, then the better half, and so on (Karnin et al. 2013). A slot that
    fell out keeps fewer visits than those still in the race, so that the number of visits tells who is in it, and rows
    with different numbers of valid slots need no state of their own.
    """
    return tuple(_sequence(considered, simulations) for considered in range(most + 1))


@cache
def visits_table(most: int, simulations: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`considered_visits` as a tensor, which is not to be changed."""
    return torch.tensor(considered_visits(most, simulations), dtype=dtype, device=device)


def _sequence(considered: int, simulations: int) -> tuple[int, ...]:
    """The row of so many considered slots."""
    if considered <= 1:
        return tuple(range(simulations + 1))
    rounds = math.ceil(math.log2(considered))
    visits = [0] * considered
    sequence: list[int] = []
    alive = considered
    while len(sequence) <= simulations:
        for _ in range(max(1, simulations // (rounds * alive))):
            sequence += visits[:alive]
            visits[:alive] = [n + 1 for n in visits[:alive]]
        alive = max(2, alive // 2)
    return tuple(sequence[: simulations + 1])
