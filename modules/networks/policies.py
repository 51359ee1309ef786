"""Policies whose weights are stacked along the first axis, behind one interface: what they say, do and find likely.

Actions here are a model's: `[M, B, A]` in [-1, 1], or int64 numbers `[M, B]` from 0 on. `ActionUnits` of
`modules.networks.action_units` turns them into an environment's.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from modules.functional.distributions import (
    categorical_sample,
    normal_log_prob,
    tanh_normal_log_prob,
    tanh_normal_sample,
)
from modules.functional.elementwise import log_softmax
from modules.networks.action_units import ActionUnits
from modules.networks.ensemble import Initializer
from modules.networks.trunks import Trunk, make_ensemble


class StackedPolicy(nn.Module):
    """`M` policies: a network `[M, B, D] -> [M, B, O]`, and the distribution of actions that its output stands for.

    A subclass says what the output means. Called with observations, a policy returns the statistics of its
    distribution, which the other methods take.

    Args:
        members: number of policies `M`.
        d_observation: width `D` of an observation.
        d_output: width `O` of the network's output.
        d_noise: width `N` of the standard normal draws that one action takes.
        hidden: widths of the hidden layers.
        initializer: function that fills one member's layer.
        generators: one random generator per member.
        trunk: makes the layer between input and output layer that takes the place of the hidden layers.
    """

    def __init__(
        self,
        members: int,
        d_observation: int,
        d_output: int,
        d_noise: int,
        hidden: Sequence[int],
        initializer: Initializer,
        generators: Sequence[torch.Generator],
        trunk: Trunk | None = None,
    ) -> None:
        super().__init__()
        self.d_noise = d_noise
        self.network = make_ensemble(members, d_observation, hidden, d_output, initializer, generators, trunk)

    def forward(self, observation: Tensor) -> tuple[Tensor, ...]:
        """`[M, B, D]` observations to the statistics of the distribution, `[M, B, ...]` each."""
        return self.statistics(self.network(observation))

    def likeliest(self, observation: Tensor) -> Tensor:
        """`[M, B, D]` observations to the most likely actions."""
        return self.decide(self.network(observation))

    @abstractmethod
    def statistics(self, output: Tensor) -> tuple[Tensor, ...]:
        """`[M, B, O]` outputs of the network to the statistics of the distribution."""

    @staticmethod
    @abstractmethod
    def decide(output: Tensor) -> Tensor:
        """`[..., O]` outputs of the network to the most likely actions, `[..., A]` or `[...]`."""

    @abstractmethod
    def sample(self, noise: Tensor, *statistics: Tensor) -> Tensor:
        """Actions for `[M, B, N]` standard normal draws."""

    @abstractmethod
    def log_prob(self, action: Tensor, *statistics: Tensor) -> Tensor:
        """Log-probability of given actions per dimension, `[M, B, A]`; sum over the last axis for the joint."""


class TanhGaussianPolicy(StackedPolicy):
    """A normal with state-dependent deviation, squashed to (-1, 1) by tanh; statistics are mean and log deviation.

    Args:
        log_std_range: clamp of the log standard deviation before squashing.

    The others are those of `StackedPolicy`, with `d_action`, the width `A` of an action.
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
        super().__init__(members, d_observation, 2 * d_action, d_action, hidden, initializer, generators, trunk)
        self.log_std_range = log_std_range

    def statistics(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """`[M, B, A]` mean and log standard deviation, both before squashing."""
        mean, log_std = output.chunk(2, dim=-1)
        return mean, log_std.clamp(*self.log_std_range)

    @staticmethod
    def decide(output: Tensor) -> Tensor:
        """The squashed mean, which is the median."""
        return torch.tanh(output.chunk(2, dim=-1)[0])

    def sample(self, noise: Tensor, *statistics: Tensor) -> Tensor:
        """Reparametrised samples, `[M, B, A]`."""
        mean, log_std = statistics
        return tanh_normal_sample(mean, log_std, noise)[0]

    def log_prob(self, action: Tensor, *statistics: Tensor) -> Tensor:
        """Log-density per dimension of `[M, B, A]` actions, of which those on the bound are moved 1e-6 inside."""
        return tanh_normal_log_prob(action, *statistics)


class BoundedGaussianPolicy(StackedPolicy):
    """A normal around a tanh-bounded mean, with one learned deviation per action dimension for all states.

    Source: Kostrikov et al. 2021, "Offline Reinforcement Learning with Implicit Q-Learning"
    (https://arxiv.org/abs/2110.06169), official code. Deviations start at 1, as there; that they stay in their range is
    d3rlpy's `low + (high - low) * sigmoid(x)` of a parameter `x`, where the official code clips. Samples are clipped to
    the bounds, densities are not of the clipped samples. Statistics are mean, in action units, and log deviation.

    Args:
        log_std_range: range of the log standard deviation, which holds 0.

    The others are those of `StackedPolicy`, with `d_action`, the width `A` of an action.

    Raises:
        ValueError: the range does not hold 0, a deviation of 1.
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
        super().__init__(members, d_observation, d_action, d_action, hidden, initializer, generators, trunk)
        low, high = log_std_range
        if not low < 0.0 < high:
            raise ValueError(f"the range of log deviations must hold 0, where they start, got [{low:g}, {high:g}]")
        self.log_std_range = log_std_range
        start = torch.logit(torch.tensor(-low / (high - low)))
        self.deviation = nn.Parameter(torch.full((members, 1, d_action), float(start)))

    def statistics(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """`[M, B, A]` mean in [-1, 1] and log standard deviation, which is the same in every row."""
        low, high = self.log_std_range
        log_std = low + (high - low) * torch.sigmoid(self.deviation)
        return torch.tanh(output), log_std.expand_as(output)

    @staticmethod
    def decide(output: Tensor) -> Tensor:
        """The bounded mean."""
        return torch.tanh(output)

    def sample(self, noise: Tensor, *statistics: Tensor) -> Tensor:
        """Samples clipped to [-1, 1], `[M, B, A]`."""
        mean, log_std = statistics
        return (mean + torch.exp(log_std) * noise).clamp(-1.0, 1.0)

    def log_prob(self, action: Tensor, *statistics: Tensor) -> Tensor:
        """Log-density per dimension of `[M, B, A]` actions under the normal that is not clipped."""
        return normal_log_prob(action, *statistics)


class TanhPolicy(StackedPolicy):
    """Deterministic: the tanh of the network's output, which is the only statistic.

    The arguments are those of `StackedPolicy`, with `d_action`, the width `A` of an action.
    """

    def __init__(
        self,
        members: int,
        d_observation: int,
        d_action: int,
        hidden: Sequence[int],
        initializer: Initializer,
        generators: Sequence[torch.Generator],
        trunk: Trunk | None = None,
    ) -> None:
        super().__init__(members, d_observation, d_action, d_action, hidden, initializer, generators, trunk)

    def statistics(self, output: Tensor) -> tuple[Tensor]:
        """`[M, B, A]` actions."""
        return (torch.tanh(output),)

    @staticmethod
    def decide(output: Tensor) -> Tensor:
        """The action."""
        return torch.tanh(output)

    def sample(self, noise: Tensor, *statistics: Tensor) -> Tensor:
        """The action, whatever is drawn: who explores adds noise of a size of its own."""
        return statistics[0]

    def log_prob(self, action: Tensor, *statistics: Tensor) -> Tensor:
        """Refused: an action has no density.

        Raises:
            TypeError: always.
        """
        raise TypeError("a deterministic policy has no log-probabilities")


class CategoricalPolicy(StackedPolicy):
    """One of `n` actions; the only statistic is their log-probabilities `[M, B, n]`.

    The arguments are those of `StackedPolicy`, with `actions`, their number `n`.
    """

    def __init__(
        self,
        members: int,
        d_observation: int,
        actions: int,
        hidden: Sequence[int],
        initializer: Initializer,
        generators: Sequence[torch.Generator],
        trunk: Trunk | None = None,
    ) -> None:
        super().__init__(members, d_observation, actions, actions, hidden, initializer, generators, trunk)

    def statistics(self, output: Tensor) -> tuple[Tensor]:
        """`[M, B, n]` log-probabilities."""
        return (log_softmax(output),)

    @staticmethod
    def decide(output: Tensor) -> Tensor:
        """The action with the largest probability, int64."""
        return output.argmax(-1)

    def sample(self, noise: Tensor, *statistics: Tensor) -> Tensor:
        """Actions `[M, B]`, drawn by their probabilities."""
        return categorical_sample(statistics[0], noise)

    def log_prob(self, action: Tensor, *statistics: Tensor) -> Tensor:
        """Log-probability of int64 `[M, B]` actions, `[M, B, 1]`: an action has one dimension."""
        return statistics[0].gather(-1, action.unsqueeze(-1))


class DeterministicPolicy(nn.Module):
    """One member's most likely action: raw observations `[B, D]` in, environment actions `[B, A]` or `[B]` out.

    Args:
        normalize: normaliser of observations, or what makes rows of images.
        network: one member's network `[B, D] -> [B, O]`.
        decide: the most likely action of the network's output, `StackedPolicy.decide`.
        units: units of the environment's actions.
    """

    def __init__(
        self, normalize: nn.Module, network: nn.Module, decide: Callable[[Tensor], Tensor], units: ActionUnits
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.network = network
        self.decide = decide
        self.units = units

    def forward(self, observation: Tensor) -> Tensor:
        """`[B, D]` raw observations to `[B, A]` or `[B]` environment actions."""
        return self.units.played(self.decide(self.network(self.normalize(observation))))
