"""Ensembles of networks that predict one step of an environment, with an uncertainty of their own.

Source: Chua et al. 2018, "Deep Reinforcement Learning in a Handful of Trials using Probabilistic Dynamics Models"
(PETS, https://arxiv.org/abs/1805.12114): each member gives a normal with a deviation that depends on the input, within
bounds that are learned; members that learned from other rows differ where the data say little.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from modules.functional.transforms import soft_clamp
from modules.networks.ensemble import EnsembleMLP, Initializer
from modules.networks.replicas import average_over_ranks

LOG_VARIANCES = (-10.0, 0.5)
"""Bounds of the log-variance of scaled targets at the start (Chua et al. 2018, code)."""


class StepDistribution(NamedTuple):
    """Normal of what a step changes, in the environment's units, and the chance that it ends the episode.

    Attributes:
        mean: `[M, B, D + 1]` of the change of the observation, and of the reward.
        log_std: `[M, B, D + 1]`.
        termination: `[M, B]` logit of a terminal state; None of networks that do not learn it.
    """

    mean: Tensor
    log_std: Tensor
    termination: Tensor | None


class TargetScale(nn.Module):
    """Running mean and deviation of each member's targets, over all batches that it has seen: `[M, 1, K]` each.

    Equal on all ranks. A target that never varies keeps the deviation 1.
    """

    count: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(members, 1, width))
        self.register_buffer("variance", torch.ones(members, 1, width))

    @property
    def deviation(self) -> Tensor:
        """`[M, 1, K]`."""
        deviation = self.variance.sqrt()
        return torch.where(deviation < 1e-6, 1.0, deviation)

    @torch.no_grad()
    def see(self, target: Tensor) -> None:
        """Take in a batch `[M, B, K]`; all batches count alike."""
        # All variances are taken around means, so that a large mean costs no digits.
        mean = _average(target.mean(1, keepdim=True))
        variance = _average((target - mean).square().mean(1, keepdim=True))
        self.count += 1
        share = 1.0 / self.count
        moved = self.mean + share * (mean - self.mean)
        before, now = self.variance + (self.mean - moved).square(), variance + (mean - moved).square()
        self.variance.copy_((1.0 - share) * before + share * now)
        self.mean.copy_(moved)


def _average(x: Tensor) -> Tensor:
    (mean,) = average_over_ranks([x], [x])
    return mean


class StackedDynamics(nn.Module):
    """`M` networks from a normalised observation and an action to a `StepDistribution`.

    Args:
        members: number of networks `M`.
        d_observation: width `D` of an observation.
        d_action: width `A` of an action, as a vector.
        hidden: widths of the hidden layers.
        terminations: whether the end of the episode is predicted, too.
        initializer: initial weights.
        generators: one random generator per member.
    """

    def __init__(
        self,
        members: int,
        d_observation: int,
        d_action: int,
        hidden: Sequence[int],
        terminations: bool,
        initializer: Initializer,
        generators: Sequence[torch.Generator],
    ) -> None:
        super().__init__()
        self.targets = d_observation + 1
        d_out = 2 * self.targets + int(terminations)
        self.network = EnsembleMLP(members, d_observation + d_action, hidden, d_out, initializer, generators)
        self.scale = TargetScale(members, self.targets)
        low, high = LOG_VARIANCES
        self.low = nn.Parameter(torch.full((members, 1, self.targets), low))
        self.high = nn.Parameter(torch.full((members, 1, self.targets), high))

    def forward(self, observation: Tensor, action: Tensor) -> StepDistribution:
        """Predict `[M, B, D]` observations and `[M, B, A]` actions."""
        out = self.network(torch.cat([observation, action], -1))
        mean, log_variance, termination = out.split(
            [self.targets, self.targets, out.shape[-1] - 2 * self.targets], dim=-1
        )
        deviation = self.scale.deviation
        log_std = 0.5 * soft_clamp(log_variance, self.low, self.high) + deviation.log()
        ends = termination.squeeze(-1) if termination.shape[-1] else None
        return StepDistribution(mean * deviation + self.scale.mean, log_std, ends)

    def bound_width(self) -> Tensor:
        """`[M]` distance between the bounds of the log-variance, summed over the targets."""
        return (self.high - self.low).sum((1, 2))
