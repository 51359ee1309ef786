"""A policy whose deviations are learned apart from what it sees, as proximal policy optimisation has them."""

from __future__ import annotations

import math

import gymnasium as gym
import torch
from torch import Tensor, nn

from modules.arguments.checks import check_ranges
from modules.functional.distributions import clipped_normal_log_prob, normal_entropy
from modules.networks.actors import BoxActor
from modules.networks.trunks import Trunk


class NormalActor(BoxActor):
    """Normals whose mean is a linear function of the features and whose deviation is a parameter, clipped to [-1, 1].

    An action on the bound stands for all that would lie beyond it: its log-probability is that of the tail, so that
    ratios of probabilities are those of the actions that were taken. The entropy is that of the normal before it is
    clipped. The mean begins near 0, with weights a hundred times smaller than those of other output layers.

    Sources: Schulman et al. 2017 (https://arxiv.org/abs/1707.06347), section 6.1; Fujita & Maeda 2018, "Clipped Action
    Policy Gradient" (https://arxiv.org/abs/1802.07564); Andrychowicz et al. 2021, "What Matters in On-Policy
    Reinforcement Learning?" (https://arxiv.org/abs/2006.05990), section 3.2.

    Args:
        space: bounded flat Box; [-1, 1] stands for its range.
        d_features: width `F` of the features.
        trunk: makes a dense network from its widths of input and output.
        units: width that the trunk gives.
        std: deviation that learning begins with.

    Raises:
        ValueError: the deviation is out of range.
    """

    def __init__(self, space: gym.spaces.Box, d_features: int, trunk: Trunk, units: int, std: float = 0.5) -> None:
        check_ranges(("std", std, 1e-6, 1e6))
        super().__init__(space, space.shape[0], d_features, trunk, units, output_scale=0.01)
        self.log_std = nn.Parameter(torch.full((self.width,), math.log(std)))

    def forward(self, features: Tensor) -> Tensor:
        """`[..., F]` to `[..., 2 A]` means and logarithms of deviations."""
        mean = self.output(self.trunk(features))
        return torch.cat([mean, self.log_std.expand_as(mean)], -1)

    def sample(self, stats: Tensor, noise: Tensor) -> Tensor:
        """Reparametrised samples, `[..., A]`, without gradient on the bounds."""
        mean, log_std = stats.chunk(2, -1)
        return (mean + log_std.exp() * noise).clamp(-1.0, 1.0)

    def mode(self, stats: Tensor) -> Tensor:
        """The mean, clipped, `[..., A]`."""
        return stats.chunk(2, -1)[0].clamp(-1.0, 1.0)

    def log_prob(self, stats: Tensor, action: Tensor) -> Tensor:
        """Joint log-density of `[..., A]` actions, on the bounds log-probability: `[...]`."""
        return clipped_normal_log_prob(action, *stats.chunk(2, -1)).sum(-1)

    def entropy(self, stats: Tensor) -> Tensor:
        """Entropy of the normals before they are clipped, `[...]`."""
        return normal_entropy(stats.chunk(2, -1)[1]).sum(-1)
