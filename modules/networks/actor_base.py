"""The base of policies on features: a trunk, an output layer, and what a policy must be able to do.

A model sees actions as `[..., A]` floats: one-hot vectors side by side, or numbers in [-1, 1]. `forward` gives the
distribution's statistics in float32, which the other methods take. Noise is an argument of `sample`, so that all draws
of a loop can be made before it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from modules.arguments.checks import check_ranges
from modules.networks.blocks import OutputLinear
from modules.networks.trunks import Trunk


class Actor(nn.Module, ABC):
    """A policy: `[..., F]` features to statistics of a distribution over actions.

    Attributes:
        width: width `A` of an action as the model sees it.

    Args:
        width: width `A` of an action.
        outputs: width of the output layer.
        d_features: width `F` of the features.
        trunk: makes a dense network from its widths of input and output.
        units: width that the trunk gives.
        output_scale: factor of the output layer's first weights.

    Raises:
        ValueError: a negative factor.
    """

    def __init__(
        self, width: int, outputs: int, d_features: int, trunk: Trunk, units: int, output_scale: float = 1.0
    ) -> None:
        super().__init__()
        check_ranges(("output_scale", output_scale, 0.0, 1e12))
        self.width = width
        self.trunk = trunk(d_features, units)
        self.output = OutputLinear(units, outputs)
        with torch.no_grad():
            self.output.weight.mul_(output_scale)

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """`[..., F]` to the statistics that the other methods take, `[..., S]` in float32."""

    @abstractmethod
    def noise(
        self, *shape: int, device: torch.device | str | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw the noise that `sample` needs for actions of this shape: `[*shape, N]`."""

    @abstractmethod
    def sample(self, stats: Tensor, noise: Tensor) -> Tensor:
        """`[..., S]` statistics and `[..., N]` noise to `[..., A]` actions that gradients pass through."""

    @abstractmethod
    def mode(self, stats: Tensor) -> Tensor:
        """The action to take when not exploring, `[..., A]`."""

    @abstractmethod
    def log_prob(self, stats: Tensor, action: Tensor) -> Tensor:
        """Log-probability or density of `[..., A]` actions, `[...]`; detach samples first for REINFORCE."""

    @abstractmethod
    def entropy(self, stats: Tensor) -> Tensor:
        """Entropy `[...]` in nats; of continuous actions the differential entropy in [-1, 1] units."""

    @abstractmethod
    def encode(self, action: Tensor) -> Tensor:
        """The environment's actions as the model sees them: `[..., A]` float32."""

    @abstractmethod
    def decode(self, action: Tensor) -> Tensor:
        """Inverse of `encode`: `[..., A]` actions in the environment's shape and units."""

    def executed(self, action: Tensor) -> Tensor:
        """An environment's action for a sample, in the model's form `[..., A]`; if another, without gradient."""
        return action
