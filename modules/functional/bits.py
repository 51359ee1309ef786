"""Bits that a network writes and that gradients pass through, and the numbers that groups of them make.

Source: Kaiser & Bengio 2018, "Discrete Autoencoders for Sequence Models" (https://arxiv.org/abs/1801.09797), as in
github.com/tensorflow/tensor2tensor, `tanh_discrete_bottleneck`. A bit is -1 or 1, in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor


def clean_bits(x: Tensor) -> Tensor:
    """The signs of numbers, 1 above 0 and -1 elsewhere: the bits that noise has not changed."""
    return torch.where(x > 0.0, 1.0, -1.0)


def noisy_bits(x: Tensor, noise: Tensor, uniform: Tensor, flips: float, ripe: Tensor) -> Tensor:
    """Signs of numbers plus noise, some of them turned over, with the gradient of `tanh`, `[...]`.

    The noise drives the numbers away from 0, and the bits that are turned over by chance make what reads them bear
    mistakes of a prior. While they are not ripe, most of the bits are still the `tanh` that they grow out of.

    Args:
        x: `[...]` numbers.
        noise: `[...]` that is added to them.
        uniform: `[2, ...]` draws on [0, 1); a number is a bit where the first is below `ripe`, and turned over where
            the second is below `flips`.
        flips: share that is turned over.
        ripe: scalar in [0, 1].
    """
    soft = torch.tanh(x + noise)
    bits = torch.where(uniform[0] < ripe, soft + (clean_bits(soft) - soft).detach(), soft)
    return bits * torch.where(uniform[1] < flips, -1.0, 1.0)


def numbers_of_bits(bits: Tensor, group: int) -> Tensor:
    """`[..., n]` bits to the number that each group makes, the first bit counting most: `[..., n / group]` int64."""
    weights = 2 ** torch.arange(group - 1, -1, -1, device=bits.device)
    return ((bits.unflatten(-1, (-1, group)) > 0.0) * weights).sum(-1)


def bits_of_numbers(numbers: Tensor, group: int) -> Tensor:
    """Inverse of `numbers_of_bits`: `[..., g]` int64 to `[..., g * group]` bits."""
    places = torch.arange(group - 1, -1, -1, device=numbers.device)
    return (((numbers.unsqueeze(-1) >> places) & 1) * 2.0 - 1.0).flatten(-2)
