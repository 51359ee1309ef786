"""Members of an ensemble about one number: how they disagree, how uncertain each is, which learn of what."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Spread(NamedTuple):
    """The law of total variance: the variance of a mixture of all members is the sum of both parts.

    Source: Chua et al. 2018, "Deep Reinforcement Learning in a Handful of Trials using Probabilistic Dynamics Models"
    (https://arxiv.org/abs/1805.12114), section 4.

    Attributes:
        mean: `[...]` of the members' means.
        aleatoric: `[...]` mean of the members' variances: chance in what is predicted, which no data remove.
        epistemic: `[...]` variance of the members' means: what is not known, and falls with data.
    """

    mean: Tensor
    aleatoric: Tensor
    epistemic: Tensor


def spread_of(mean: Tensor, variance: Tensor) -> Spread:
    """Both parts, by the members' means and variances `[..., M]`."""
    return Spread(mean.mean(-1), variance.mean(-1), mean.var(-1, correction=0))


def bootstrap_mask(group: Tensor, members: int, share: float, process: int = 0) -> Tensor:
    """Which members learn of which groups of data: bool `[..., M]`, true for this share, by chance.

    The chance is in a hash of the numbers of the group, the member and the process: a group has the same answer
    whenever it is asked, and nothing is stored. By episodes, members see different data; by single rows, each would see
    what its neighbours tell anyway.

    Args:
        group: int64 `[...]` numbers of groups, of which the lower 32 bits count.
        members: `M`.
        share: of the groups that a member learns of, in (0, 1].
        process: number of the process that knows the groups: another one gives the same numbers to other groups.
    """
    member = torch.arange(1, members + 1, device=group.device)
    salt = (member * 0x3C6EF372 & WORD) ^ (process * 0x9E3779B1 & WORD)
    mixed = _hash(_hash(group).unsqueeze(-1) ^ salt)
    return mixed < share * (WORD + 1)


WORD = 0xFFFFFFFF


def _hash(x: Tensor) -> Tensor:
    """32 bits in which each of the lower 32 of an int64 has a say; no product exceeds 63 bits."""
    x = x & WORD
    for _ in range(2):
        x = ((x >> 16) ^ x) * 0x45D9F3B & WORD
    return (x >> 16) ^ x
