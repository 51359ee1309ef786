"""The continuous policy of DreamerV3: normals with bounded means and deviations."""

from __future__ import annotations

import gymnasium as gym
import torch
from torch import Tensor

from modules.arguments.checks import check_intervals
from modules.functional.distributions import normal_log_prob
from modules.functional.divergences import gaussian_entropy
from modules.networks.actors import ContinuousActor
from modules.networks.trunks import Trunk


class BoundedNormalActor(ContinuousActor):
    """Normals with mean `tanh(m)` and deviation `min_std + (max_std - min_std) sigmoid(s + 2)`, not truncated.

    A sample may lie beyond [-1, 1]; the environment gets the nearest action of its box. Source:
    github.com/danijar/dreamerv3, embodied/jax/heads.py, `bounded_normal`.

    Args:
        space: bounded flat Box; [-1, 1] stands for its range.
        d_features: width `F` of the features.
        trunk: makes a dense network from its widths of input and output.
        units: width that the trunk gives.
        min_std: smallest deviation.
        max_std: largest deviation.
        output_scale: factor of the output layer's first weights.

    Raises:
        ValueError: the largest deviation is not above the smallest.
    """

    def __init__(
        self,
        space: gym.spaces.Box,
        d_features: int,
        trunk: Trunk,
        units: int,
        min_std: float = 0.1,
        max_std: float = 1.0,
        output_scale: float = 1.0,
    ) -> None:
        check_intervals(**{"the range from min_std to max_std": (min_std, max_std)})
        super().__init__(space, d_features, trunk, units, min_std, 2.0, output_scale)
        self.max_std = max_std

    def _bound(self, location: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tanh(location), self.min_std + (self.max_std - self.min_std) * torch.sigmoid(std)

    def sample(self, stats: Tensor, noise: Tensor) -> Tensor:
        """Reparametrised samples, `[..., A]`."""
        mean, std = stats.chunk(2, -1)
        return mean + std * noise

    def mode(self, stats: Tensor) -> Tensor:
        """The mean, `[..., A]`."""
        return stats.chunk(2, -1)[0]

    def log_prob(self, stats: Tensor, action: Tensor) -> Tensor:
        """Joint log-density of `[..., A]` samples, `[...]`."""
        mean, std = stats.chunk(2, -1)
        return normal_log_prob(action, mean, std.log()).sum(-1)

    def entropy(self, stats: Tensor) -> Tensor:
        """Entropy of the normals, `[...]`."""
        return gaussian_entropy(stats.chunk(2, -1)[1])
