"""The choice among imagined candidates, and whether its gain is more than what models disagree on."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor


def choose(scores: Tensor, pessimism: float, guard: float) -> tuple[Tensor, Tensor]:
    """The candidate with the best return, or the first one, the base policy's own, where the gain is in doubt.

    Args:
        scores: `[K, N, C]` return of each candidate by each of `K` models.
        pessimism: deviations over models that are subtracted from the mean return before the best is chosen.
        guard: a candidate counts where its mean gain over the first one is above so many deviations of that gain over
            models. NaN never does, and with one model any gain does.

    Returns:
        `[N]` index of the candidate, and `[N]` its mean gain, 0 where it is the first.
    """
    best = (scores.mean(0) - pessimism * scores.std(0, correction=0)).argmax(-1)
    index = best.expand(len(scores), -1).unsqueeze(-1)
    gains = scores.gather(-1, index).squeeze(-1) - scores[..., 0]  # [K, N]
    gain = gains.mean(0)
    clear = gain > guard * gains.std(0, correction=0)
    return torch.where(clear, best, 0), torch.where(clear, gain, 0.0)


def sequences(choices: int, length: int) -> Tensor:
    """`[choices ** length, length]` all sequences of so many numbers from 0 on, the last one changing fastest."""
    return torch.tensor(list(itertools.product(range(choices), repeat=length)), dtype=torch.int64)
