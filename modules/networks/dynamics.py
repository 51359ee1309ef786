"""Ensembles of networks that predict one step of an environment, with an uncertainty of their own.

Source: Chua et al. 2018, "Deep Reinforcement Learning in a Handful of Trials using Probabilistic Dynamics Models"
(PETS, https://arxiv.org/abs/1805.12114): each member gives a normal with a deviation that depends on the input, within
bounds that are learned; members that learned from other rows differ where the data say little.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.batch import Transition
from modules.functional.distributions import normal_log_prob
from modules.functional.transforms import soft_clamp
from modules.networks.ensemble import EnsembleMLP, Initializer
from modules.networks.replicas import average_over_ranks

LOG_VARIANCES = (-10.0, 0.5)
"""Bounds of the log-variance of scaled targets at the start (Chua et al. 2018, code)."""

BOUND_WEIGHT = 0.005
"""Weight of the distance between the bounds, against the mean negative log-likelihood: the paper's 0.01 against two."""


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

    def sample(self, noise: Tensor) -> Tensor:
        """Draws `[M, B, D + 1]` of the change and the reward for standard normal `noise`; gradients pass through it."""
        return self.mean + self.log_std.exp() * noise

    def chance_of_ending(self) -> Tensor:
        """`[M, B]` probability of a terminal state; 0 of networks that do not learn it."""
        return torch.zeros_like(self.mean[..., 0]) if self.termination is None else self.termination.sigmoid()


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

    def losses(
        self, predicted: StepDistribution, target: Tensor, terminated: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Named `[M]` terms that the networks descend, and the weight of each.

        Args:
            predicted: predictions of these networks.
            target: `[M, B, D + 1]` change of the observation, and reward.
            terminated: `[M, B]` whether the state after the step was terminal.
        """
        likelihood = -normal_log_prob(target, predicted.mean, predicted.log_std)
        terms = {"likelihood": likelihood.mean((1, 2)), "bounds": self.bound_width()}
        weights = {"likelihood": 1.0, "bounds": BOUND_WEIGHT}
        if predicted.termination is not None:
            terms["termination"] = _termination_loss(predicted.termination, terminated)
            weights["termination"] = 1.0
        return terms, weights

    def errors(self, predicted: StepDistribution, target: Tensor, terminated: Tensor) -> dict[str, Tensor]:
        """Metrics `[M]`, with the arguments of `losses`: negative log-likelihood of a step as a whole, squared error
        in units of the targets' variance, and cross-entropy of terminal states where these are learned.
        """
        likelihood = -normal_log_prob(target, predicted.mean, predicted.log_std).sum(-1).mean(-1)
        error = ((predicted.mean - target) / self.scale.deviation).square()
        errors = {"negative_log_likelihood": likelihood, "squared_error": error.mean((1, 2))}
        if predicted.termination is not None:
            errors["termination_loss"] = _termination_loss(predicted.termination, terminated)
        return errors


def _termination_loss(logit: Tensor, terminated: Tensor) -> Tensor:
    """`[M]` cross-entropy of `[M, B]` logits."""
    return F.binary_cross_entropy_with_logits(logit, terminated.to(logit), reduction="none").mean(-1)


def step_targets(batch: Transition) -> Tensor:
    """`[M, B, D + 1]` that networks are to predict of steps `[M, B, ...]`: change of the observation, and reward."""
    return torch.cat([batch.next_observation - batch.observation, batch.reward.unsqueeze(-1)], -1)
