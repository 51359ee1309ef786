"""A policy on a grid: each dimension of a box takes one of a few values, by a categorical of its own.

Source: Tang & Agrawal 2020, "Discretizing Continuous Action Space for On-Policy Optimization"
(https://arxiv.org/abs/1901.10500); Hubert et al. 2021 (https://arxiv.org/abs/2104.06303) search over draws of it.
"""

from __future__ import annotations

import gymnasium as gym
import torch
from torch import Tensor

from modules.arguments.checks import check_counts
from modules.functional.elementwise import log_softmax
from modules.functional.gradient_estimators import one_hot, straight_through
from modules.functional.transforms import from_unit, to_unit
from modules.networks.action_spaces import action_width
from modules.networks.actor_base import Actor
from modules.networks.trunks import Trunk


class GridActor(Actor):
    """A categorical over `n` evenly spread values of each dimension; the statistics are their log-probabilities.

    Other actions than those of the grid have the probability of the nearest ones.

    Args:
        space: bounded flat Box; [-1, 1] stands for its range.
        d_features: width `F` of the features.
        trunk: makes a dense network from its widths of input and output.
        units: width that the trunk gives.
        values: number `n` of values of each dimension, its two bounds among them.

    Raises:
        ValueError: fewer than two values.
    """

    low: Tensor
    high: Tensor
    grid: Tensor

    def __init__(self, space: gym.spaces.Box, d_features: int, trunk: Trunk, units: int, values: int = 7) -> None:
        check_counts(2, values=values)
        width = action_width(space)
        super().__init__(width, width * values, d_features, trunk, units)
        self.values = values
        self.register_buffer("low", torch.as_tensor(space.low, dtype=torch.float32))
        self.register_buffer("high", torch.as_tensor(space.high, dtype=torch.float32))
        self.register_buffer("grid", torch.linspace(-1.0, 1.0, values), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """`[..., F]` to `[..., A n]` log-probabilities."""
        return log_softmax(self._by_dimension(self.output(self.trunk(features)))).flatten(-2)

    def _by_dimension(self, stats: Tensor) -> Tensor:
        return stats.unflatten(-1, (self.width, self.values))

    def noise(
        self, *shape: int, device: torch.device | str | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Uniform draws, `[*shape, A]`."""
        return torch.rand(*shape, self.width, device=device, generator=generator)

    def sample(self, stats: Tensor, noise: Tensor) -> Tensor:
        """Values of the grid, `[..., A]`, with the gradient of the expected ones."""
        return (straight_through(self._by_dimension(stats), noise) * self.grid).sum(-1)

    def mode(self, stats: Tensor) -> Tensor:
        """The most likely value of each dimension, `[..., A]`."""
        return self.grid[self._by_dimension(stats).argmax(-1)]

    def log_prob(self, stats: Tensor, action: Tensor) -> Tensor:
        """Log-probability of the nearest actions of the grid, `[...]`."""
        nearest = ((action + 1.0) * (0.5 * (self.values - 1))).round().long().clamp(0, self.values - 1)
        parts = self._by_dimension(stats)
        return (parts * one_hot(nearest, parts)).sum((-1, -2))

    def entropy(self, stats: Tensor) -> Tensor:
        """Sum of the categoricals' entropies, `[...]`."""
        return -(stats.exp() * stats).sum(-1)

    def encode(self, action: Tensor) -> Tensor:
        """`[..., A]` actions in the box's units to [-1, 1]."""
        return to_unit(action.float(), self.low, self.high)

    def decode(self, action: Tensor) -> Tensor:
        """`[..., A]` actions in [-1, 1] to the box's units, float32, with no rounding past a bound."""
        return from_unit(action, self.low, self.high).clamp(self.low, self.high)
