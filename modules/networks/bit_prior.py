"""A prior of bits, group after group: what a network would write of a frame that nobody has seen yet."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.arguments.checks import check_sizes, check_widths
from modules.functional.bits import bits_of_numbers, numbers_of_bits
from modules.functional.gradient_estimators import drawn_class
from modules.networks.blocks import OutputLinear

MOST_AT_ONCE = 12
"""Most bits of a group, which is one of two to the power of as many classes."""


class BitPrior(nn.Module):
    """An LSTM that says each group of bits from the groups before it, `[B, D]` features at its start.

    Source: Kaiser et al. 2020 (https://arxiv.org/abs/1903.00374), section 4, as in tensor2tensor's
    `predict_bits_with_lstm`.

    Args:
        d_in: width `D` of the features.
        bits: number of bits.
        group: bits that are one class.
        units: width of the LSTM.

    Raises:
        ValueError: the bits are no whole number of groups, or a group is too large.
    """

    def __init__(self, d_in: int, bits: int, group: int, units: int) -> None:
        super().__init__()
        check_sizes(group=group)
        check_widths(prior_units=units)
        if bits % group or group > MOST_AT_ONCE:
            raise ValueError(
                f"group: {bits} bits are no whole number of groups of {group}, of at most {MOST_AT_ONCE}; choose a "
                "divisor of bits"
            )
        self.group = group
        self.groups = bits // group
        self.start = nn.Linear(d_in, units)
        self.embed = nn.ModuleList(nn.Linear(group, units) for _ in range(self.groups - 1))
        self.cell = nn.LSTMCell(units, units)
        self.output = OutputLinear(units, 2**group)

    def loss(self, features: Tensor, bits: Tensor) -> Tensor:
        """Negative log-probability of bits `[B, n]`, in nats, `[B]`; each group is said after the true ones before."""
        numbers = numbers_of_bits(bits, self.group)  # [B, G]
        told = bits.unflatten(-1, (-1, self.group))  # [B, G, group]
        losses: list[Tensor] = []
        x, state = self.start(features), None
        for place in range(self.groups):
            x = self.embed[place - 1](told[:, place - 1]) if place else x
            state = self.cell(x, state)
            losses.append(F.cross_entropy(self.output(state[0]), numbers[:, place], reduction="none"))
        return torch.stack(losses).sum(0)

    def sample(self, features: Tensor, noise: Tensor) -> Tensor:
        """Bits `[B, n]`, each group drawn by one uniform draw of `[B, G]` and said after those before."""
        found: list[Tensor] = []
        x, state = self.start(features), None
        for place in range(self.groups):
            x = self.embed[place - 1](found[-1]) if place else x
            state = self.cell(x, state)
            numbers = drawn_class(self.output(state[0]).softmax(-1), noise[:, place])
            found.append(bits_of_numbers(numbers.unsqueeze(-1), self.group))
        return torch.cat(found, -1)
