"""Rewards of unrolled rows, masks of those that planning agents count, sums over them, and means by age; time-major.

Row `i` holds an observation, the action that led to it, and the reward that was received on arriving there. Letters:
`L` rows, `U` unrolled steps, `B` sequences.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def over_steps(loss: Tensor, unroll: int) -> Tensor:
    """Losses `[U + 1, B]`, or `[U, B]` without the first row, to sums `[B]` in which later rows count `1 / U`."""
    later = loss[len(loss) - unroll :].sum(0) / unroll
    return later if len(loss) == unroll else loss[0] + later


def prefix_targets(reward: Tensor, horizon: int | None) -> Tensor:
    """Sums of rewards since the last reset, not discounted: what a memory that is emptied every so often foretells.

    Args:
        reward: `[U + 1, B]` received on arriving at a row.
        horizon: steps between resets, the first of which stands before row 1; None for rewards one by one.

    Returns:
        `[U + 1, B]`; row 0, which nothing was foretold of, is 0.
    """
    total, sums = torch.zeros_like(reward[0]), [torch.zeros_like(reward[0])]
    for number, one in enumerate(reward[1:]):
        fresh = horizon is None or number % horizon == 0
        total = one if fresh else total + one
        sums.append(total)
    return torch.stack(sums)


class Masks(NamedTuple):
    """Which rows count.

    Attributes:
        value: `[U + 1, B]` bool.
        policy: `[U + 1, B]` bool, an action followed in the episode.
        reward: `[U, B]` bool, of rows 1 to `U`.
    """

    value: Tensor
    policy: Tensor
    reward: Tensor


def masks(terminated: Tensor, padding: Tensor, unroll: int, *, absorbing: bool = False) -> Masks:
    """Which of the first `U + 1` of `L` rows count: all but padding, for the policy all that something follows.

    Args:
        terminated: `[L, B]` bool, the row is a terminal state.
        padding: `[L, B]` bool, the row lies behind the end of the episode.
        unroll: `U`, less than `L - 1`.
        absorbing: whether values and rewards behind a terminal state count, too, as MuZero learns them: they are 0.
            Behind the last row of an episode that was cut nothing does.
    """
    counts = ~padding | terminated.any(0) if absorbing else ~padding
    rows = counts[: unroll + 1]
    return Masks(rows, ~padding[1 : unroll + 2], rows[1:])


def mean_by_age(numbers: Tensor, age: Tensor, edges: tuple[int, ...]) -> Tensor:
    """Means of `[B]` numbers in groups by age.

    Args:
        numbers: `[B]`, such as the horizons of first rows.
        age: `[B]`.
        edges: ages at which the second group and all later ones begin, rising; at least one.

    Returns:
        `[G]`, a group more than there are edges; NaN where a group has none.
    """
    group = torch.stack([age >= edge for edge in edges]).sum(0)
    belongs = group == torch.arange(len(edges) + 1, device=age.device).unsqueeze(1)
    return (belongs * numbers).sum(1) / belongs.sum(1)
