"""Rewards by the sum of them since the last reset, which a model may foresee better than when each comes.

EfficientZero (Ye et al. 2021) predicts that sum, its value prefix, by a recurrent memory that is emptied every so many
steps. All of it lives in the embedding; the search sees rewards alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Prefix(NamedTuple):
    """The part of an embedding that rewards are told by.

    Attributes:
        total: `[B]` undiscounted sum of rewards since the last reset, as it was predicted; `[B, M]` of an ensemble.
        age: int64 steps since that reset, of the same shape.
    """

    total: Tensor
    age: Tensor


def first_prefix(like: Tensor) -> Prefix:
    """The prefix of a root, for a tensor `[B]`, or `[B, M]` of an ensemble's members."""
    return Prefix(torch.zeros_like(like), torch.zeros_like(like, dtype=torch.int64))


def next_prefix(prefix: Prefix, predicted: Tensor, horizon: int) -> tuple[Tensor, Prefix]:
    """The reward of one step, and the prefix behind it.

    Args:
        prefix: of the node that is left.
        predicted: `[B]` sum of rewards since its last reset, this step's among them; `[B, M]` of an ensemble.
        horizon: steps between resets.

    Returns:
        Reward, of the shape of what was predicted: the difference of sums, or all of the sum on the first step after a
        reset; and the next prefix. Where its age is 0, the memory that predicts is to be emptied.
    """
    reward = predicted - torch.where(prefix.age == 0, 0.0, prefix.total)
    return reward, Prefix(predicted, (prefix.age + 1) % horizon)
