"""Random rows of sequences for targets of values, and the definitions of these targets by loops over single rows."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor

from modules.functional.planning_targets import (
    DynamicHorizon,
    Mixed,
    NStep,
    SearchValue,
    TDLambda,
    ValueRows,
    ValueTarget,
    VTrace,
)


def random_rows(seed: int, discount: float, behind: int = 4) -> ValueRows:
    """Sequences that end by a terminal state, by a cut, or not at all, after each number of steps."""
    chance = random.Random(seed)
    unroll = chance.randint(1, 4)
    length = unroll + 1 + chance.randint(1, behind)
    ends = [(last, kind) for last in range(1, length) for kind in ("terminated", "cut")]
    generator = torch.Generator().manual_seed(seed)
    size = length, len(ends)
    reward, value, search_value, log_ratio = (torch.randn(size, generator=generator).double() for _ in range(4))
    terminated, padding = torch.zeros(size, dtype=torch.bool), torch.zeros(size, dtype=torch.bool)
    for b, (last, kind) in enumerate(ends):
        terminated[last, b] = kind == "terminated"
        padding[last + 1 :, b] = True
    reward[padding] = 0.0
    return ValueRows(
        reward, terminated, padding, value, search_value, torch.rand(size, generator=generator) < 0.6, log_ratio[1:],
        discount, torch.randint(60, (len(ends),), generator=generator), unroll, updates=chance.randint(0, 20),
    )  # fmt: skip


def plain_target(target: ValueTarget, rows: ValueRows) -> Tensor:
    """`[U + 1, B]`: the definitions."""
    found = torch.zeros(rows.unroll + 1, rows.padding.shape[1], dtype=torch.float64)
    for t in range(len(found)):
        for b in range(found.shape[1]):
            if not rows.padding[t, b] and not rows.terminated[t, b]:
                found[t, b] = plain_entry(target, rows, t, b)
    return found


def plain_entry(target: ValueTarget, rows: ValueRows, t: int, b: int) -> float:
    left, age = last_row(rows, b) - t, int(rows.age[b])
    match target:
        case NStep(n):
            return plain_return(rows, t, b, min(n, left))
        case DynamicHorizon(n, every):
            return plain_return(rows, t, b, min(max(1, n - math.floor(age / every)), left))
        case TDLambda(lambda_):
            returns = [plain_return(rows, t, b, n) for n in range(left + 1)]
            mixed = sum((1 - lambda_) * lambda_ ** (n - 1) * returns[n] for n in range(1, left))
            return mixed + lambda_ ** (left - 1) * returns[left] if left else returns[0]
        case VTrace(lambda_):
            total, weight = float(rows.value[t, b]), 1.0
            for k in range(t, t + left):
                rho = min(1.0, math.exp(float(rows.log_ratio[k, b])))
                total += weight * rho * (plain_return(rows, k, b, 1) - float(rows.value[k, b]))
                weight *= rows.discount * lambda_ * rho
            return total
        case SearchValue():
            if rows.searched[t, b]:
                return float(rows.search_value[t, b])
            return plain_return(rows, t, b, min(len(rows.value) - 1 - rows.unroll, left))
        case Mixed():
            is_young = age < target.young_below or rows.updates < target.first_updates
            return plain_entry(target.young if is_young else SearchValue(), rows, t, b)
    raise NotImplementedError(target)


def plain_return(rows: ValueRows, t: int, b: int, n: int) -> float:
    """Rewards of `n` steps, all of one episode, and the value of where they lead."""
    total, weight = 0.0, 1.0
    for k in range(t + 1, t + n + 1):
        total += weight * float(rows.reward[k, b])
        weight = 0.0 if rows.terminated[k, b] else weight * rows.discount
    return total + weight * float(rows.value[t + n, b])


def last_row(rows: ValueRows, b: int) -> int:
    return int((~rows.padding[:, b]).sum()) - 1
