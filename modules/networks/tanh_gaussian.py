"""Policies that are normals squashed by tanh: a population of them for training, and one alone for playing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modules.functional.transforms import from_unit
from modules.networks.blocks import Normalize
from modules.networks.ensemble import Initializer
from modules.networks.trunks import Trunk, make_ensemble


class TanhGaussianPolicy(nn.Module):
    """`M` policies: a normal with state-dependent deviation, squashed to (-1, 1) by tanh.

    Args:
        members: number of policies `M`.
        d_observation: width `D` of an observation.
        d_action: width `A` of an action.
        hidden: widths of the hidden layers.
        log_std_range: clamp of the log standard deviation before squashing.
        initializer: function that fills one member's layer.
        generators: one random generator per member.
        trunk: makes the layer between input and output layer that takes the place of the hidden layers.
    """

    def __init__(
        self,
        members: int,
        d_observation: int,
        d_action: int,
        hidden: Sequence[int],
        log_std_range: tuple[float, float],
        initializer: Initializer,
        generators: Sequence[torch.Generator],
        trunk: Trunk | None = None,
    ) -> None:
        super().__init__()
        self.log_std_range = log_std_range
        self.network = make_ensemble(members, d_observation, hidden, 2 * d_action, initializer, generators, trunk)

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """`[M, B, D]` observations to `[M, B, A]` mean and log standard deviation, both before squashing."""
        mean, log_std = self.network(observation).chunk(2, dim=-1)
        return mean, log_std.clamp(*self.log_std_range)


class DeterministicPolicy(nn.Module):
    """One member's most likely action: raw observations `[B, D]` in, environment actions `[B, A]` out.

    Args:
        normalize: normaliser of observations.
        network: network `[B, D] -> [B, 2 A]` that gives mean and log standard deviation.
        low: `[A]` lower bound of the action box.
        high: `[A]` upper bound.
    """

    low: Tensor
    high: Tensor

    def __init__(self, normalize: Normalize, network: nn.Module, low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.normalize = normalize
        self.network = network
        self.register_buffer("low", low)
        self.register_buffer("high", high)

    def forward(self, observation: Tensor) -> Tensor:
        """`[B, D]` raw observations to `[B, A]` environment actions."""
        mean, _ = self.network(self.normalize(observation)).chunk(2, dim=-1)
        return from_unit(torch.tanh(mean), self.low, self.high)
