"""Continuous and numbered actions, behind one interface: how a policy plays them, and how critics value what is played.

Critics take a continuous action beside the observation, and a policy's is a draw. Numbered actions they value all at
once, and what is played there are the `[..., n]` probabilities of all of them (of a recorded action one-hot): its value
is the exact expectation, so that nothing is drawn.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.functional.cloning import cloning_loss
from modules.functional.distributions import gauss_hermite, tanh_normal_entropy, tanh_normal_sample, uniform_draws
from modules.functional.gradient_estimators import Estimator
from modules.functional.held_out import policy_errors
from modules.functional.soft_values import share_of_largest_entropy
from modules.networks.action_units import BoxUnits, DiscreteUnits
from modules.networks.ensemble import Initializer
from modules.networks.policies import CategoricalPolicy, StackedPolicy, TanhGaussianPolicy
from modules.networks.trunks import Ensemble, Trunk, twin_action_values, twin_values

Critics = Ensemble


class ActionKind(ABC):
    """How an actor-critic treats one kind of actions.

    Attributes:
        width: number `A` of dimensions of an action, or number `n` of actions.
        d_noise: number of standard normal draws that playing one action takes.
    """

    width: int
    d_noise: int

    @abstractmethod
    def automatic_floor(self, share: float) -> float:
        """Floor of a policy's entropy in nats where none is given; of numbered actions the share of the largest."""

    @abstractmethod
    def largest_entropy(self, reduction: str) -> float:
        """Entropy in nats that no policy exceeds: of whole actions for `sum`, of one dimension for `mean`."""

    @abstractmethod
    def make_policy(
        self,
        members: int,
        d_observation: int,
        hidden: Sequence[int],
        log_std_range: tuple[float, float],
        initializer: Initializer,
        generators: Sequence[torch.Generator],
        trunk: Trunk | None = None,
    ) -> StackedPolicy:
        """Policies of `M` members; the arguments are those of `TanhGaussianPolicy`."""

    @abstractmethod
    def critic_widths(self, d_observation: int) -> tuple[int, int]:
        """Widths of a critic's input and output."""

    @abstractmethod
    def check_cloning(self, loss: str, saturation: float, group: str = "") -> None:
        """Refuse settings of `cloning_loss` that these actions do not have; the group stands before their names."""

    @abstractmethod
    def cloning_loss(self, loss: str, saturation: float, action: Tensor, *statistics: Tensor) -> Tensor:
        """`[M, B, A]` or `[M, B, 1]` loss of recorded actions under a policy with these statistics."""

    @abstractmethod
    def policy_errors(self, action: Tensor, *statistics: Tensor) -> dict[str, Tensor]:
        """`[M]` errors of a policy with these statistics against recorded actions: likelihood and likeliest action."""

    @abstractmethod
    def choice(self, *statistics: Tensor) -> Tensor:
        """`[M, B, A]` most likely action, or `[M, B, n]` probabilities, by which two policies are compared."""

    @abstractmethod
    def entropy(self, *statistics: Tensor) -> Tensor:
        """`[M, B]` entropy of a policy with these statistics in nats, without drawing."""

    @abstractmethod
    def play(self, noise: Tensor, *statistics: Tensor) -> tuple[Tensor, Tensor]:
        """Actions of a policy, as critics take them, for `[M, B, d_noise]` draws; gradients pass through it.

        Returns:
            `[M, B, A]` or `[M, B, n]` action, and `[M, B, A]` or `[M, B, 1]` log-probability, whose mean over rows is
            minus the entropy.
        """

    @abstractmethod
    def as_played(self, action: Tensor) -> Tensor:
        """Actions of a model, such as recorded ones, as critics take them."""

    @abstractmethod
    def values(self, critics: Critics, queries: Sequence[tuple[Tensor, Tensor]]) -> Sequence[Tensor]:
        """`[C, M, B]` values by both critics, for each pair of states `[M, B, D]` and what is played there."""

    @abstractmethod
    def value(self, critics: Critics, index: int, observation: Tensor, action: Tensor) -> Tensor:
        """`[M, B]` values by the critic with this index alone."""

    @abstractmethod
    def least_value(self, critics: Critics, observation: Tensor, action: Tensor) -> Tensor:
        """`[M, B]` values by that critic which gives each action the lesser one."""


class ContinuousActions(ActionKind):
    """Of a bounded box, in [-1, 1]: played by squashed normals, valued where a draw of them lies.

    Args:
        width: number `A` of dimensions.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.d_noise = width
        self.nodes, self.weights = gauss_hermite(32)

    def automatic_floor(self, share: float) -> float:
        """Minus the number of dimensions."""
        return -float(self.width)

    def largest_entropy(self, reduction: str) -> float:
        """That of even draws from `[-1, 1]`, `log 2` for each dimension."""
        return math.log(2.0) * (self.width if reduction == "sum" else 1)

    def make_policy(
        self,
        members: int,
        d_observation: int,
        hidden: Sequence[int],
        log_std_range: tuple[float, float],
        initializer: Initializer,
        generators: Sequence[torch.Generator],
        trunk: Trunk | None = None,
    ) -> TanhGaussianPolicy:
        """Squashed normals."""
        return TanhGaussianPolicy(
            members, d_observation, self.width, hidden, log_std_range, initializer, generators, trunk
        )

    def critic_widths(self, d_observation: int) -> tuple[int, int]:
        """Observation and action in, one value out."""
        return d_observation + self.width, 1

    def check_cloning(self, loss: str, saturation: float, group: str = "") -> None:
        """All settings are good."""

    def cloning_loss(self, loss: str, saturation: float, action: Tensor, *statistics: Tensor) -> Tensor:
        """`[M, B, A]`, by `modules.functional.cloning`."""
        mean, log_std = statistics
        return cloning_loss(loss, action, mean, log_std, saturation)

    def policy_errors(self, action: Tensor, *statistics: Tensor) -> dict[str, Tensor]:
        """Negative log-likelihood, and squared distance of the most likely action."""
        mean, log_std = statistics
        return policy_errors(action, mean, log_std)

    def choice(self, *statistics: Tensor) -> Tensor:
        """The most likely action."""
        mean, _ = statistics
        return torch.tanh(mean)

    def entropy(self, *statistics: Tensor) -> Tensor:
        """By quadrature: there is no closed form."""
        mean, log_std = statistics
        nodes, weights = (x.to(mean.device) for x in (self.nodes, self.weights))
        return tanh_normal_entropy(mean, log_std, nodes, weights).sum(-1)

    def play(self, noise: Tensor, *statistics: Tensor) -> tuple[Tensor, Tensor]:
        """Reparametrised draws and their log-densities per dimension, `[M, B, A]` both."""
        mean, log_std = statistics
        return tanh_normal_sample(mean, log_std, noise)

    def as_played(self, action: Tensor) -> Tensor:
        """The same."""
        return action

    def values(self, critics: Critics, queries: Sequence[tuple[Tensor, Tensor]]) -> Sequence[Tensor]:
        """One forward pass over the rows of all pairs."""
        observation, action = (torch.cat(parts, 1) for parts in zip(*queries, strict=True))
        return twin_values(critics, observation, action).chunk(len(queries), dim=-1)

    def value(self, critics: Critics, index: int, observation: Tensor, action: Tensor) -> Tensor:
        """At the action."""
        return twin_values(critics, observation, action, index)[0]

    def least_value(self, critics: Critics, observation: Tensor, action: Tensor) -> Tensor:
        """At the action."""
        return twin_values(critics, observation, action).amin(0)


class NumberedActions(ActionKind):
    """One of `n` numbers: critics value all of them, and what is played are their probabilities.

    Args:
        width: number `n` of actions.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.d_noise = 0

    def automatic_floor(self, share: float) -> float:
        """The share of `log n`."""
        return share_of_largest_entropy(self.width, share)

    def largest_entropy(self, reduction: str) -> float:
        """`log n`, of all actions alike; an action has one dimension."""
        return math.log(self.width)

    def make_policy(
        self,
        members: int,
        d_observation: int,
        hidden: Sequence[int],
        log_std_range: tuple[float, float],
        initializer: Initializer,
        generators: Sequence[torch.Generator],
        trunk: Trunk | None = None,
    ) -> CategoricalPolicy:
        """Categoricals, which have no deviation."""
        return CategoricalPolicy(members, d_observation, self.width, hidden, initializer, generators, trunk)

    def critic_widths(self, d_observation: int) -> tuple[int, int]:
        """The observation in, a value for each action out."""
        return d_observation, self.width

    def check_cloning(self, loss: str, saturation: float, group: str = "") -> None:
        """Refuse what is about bounds and distances.

        Raises:
            ValueError: the loss is not the likelihood, or actions on the bound are to count apart.
        """
        if loss != "likelihood" or saturation:
            raise ValueError(
                f"numbered actions have no bounds, and a likelihood alone: set {group}loss to likelihood, "
                f"{group}saturation to 0"
            )

    def cloning_loss(self, loss: str, saturation: float, action: Tensor, *statistics: Tensor) -> Tensor:
        """`[M, B, 1]` cross-entropy: an action has one dimension."""
        (log_prob,) = statistics
        return -log_prob.gather(-1, action.unsqueeze(-1))

    def policy_errors(self, action: Tensor, *statistics: Tensor) -> dict[str, Tensor]:
        """Negative log-likelihood, and share of the rows whose action is the most likely one."""
        (log_prob,) = statistics
        return {
            "negative_log_likelihood": -log_prob.gather(-1, action.unsqueeze(-1)).squeeze(-1).mean(-1),
            "accuracy": (log_prob.argmax(-1) == action).float().mean(-1),
        }

    def choice(self, *statistics: Tensor) -> Tensor:
        """The probabilities."""
        (log_prob,) = statistics
        return log_prob.exp()

    def entropy(self, *statistics: Tensor) -> Tensor:
        """Minus the expectation of the log-probabilities."""
        (log_prob,) = statistics
        return -expected_value(log_prob, log_prob.exp())

    def play(self, noise: Tensor, *statistics: Tensor) -> tuple[Tensor, Tensor]:
        """`[M, B, n]` probabilities, and `[M, B, 1]` the expectation of their logarithm; nothing is drawn."""
        (log_prob,) = statistics
        probability = log_prob.exp()
        return probability, (probability * log_prob).sum(-1, keepdim=True)

    def as_played(self, action: Tensor) -> Tensor:
        """Int64 numbers `[M, B]` to one-hot vectors `[M, B, n]`."""
        return F.one_hot(action, self.width).float()

    def values(self, critics: Critics, queries: Sequence[tuple[Tensor, Tensor]]) -> Sequence[Tensor]:
        """One forward pass over the different states: pairs of one and the same tensor of states share its values."""
        states: list[Tensor] = []
        places = []
        for observation, _ in queries:
            known = [i for i, state in enumerate(states) if state is observation]
            places.append(known[0] if known else len(states))
            states += [] if known else [observation]
        values = twin_action_values(critics, torch.cat(states, 1)).chunk(len(states), dim=2)
        return [expected_value(values[place], action) for place, (_, action) in zip(places, queries, strict=True)]

    def value(self, critics: Critics, index: int, observation: Tensor, action: Tensor) -> Tensor:
        """The expectation."""
        return expected_value(twin_action_values(critics, observation, index)[0], action)

    def least_value(self, critics: Critics, observation: Tensor, action: Tensor) -> Tensor:
        """The expectation of the lesser value of each action, not the lesser expectation."""
        return expected_value(twin_action_values(critics, observation).amin(0), action)


class DrawnNumbers(NumberedActions):
    """Numbered actions of which one is drawn, one-hot or relaxed, by an estimator that gradients pass through.

    Critics that give every action a value are linear in what is played, and the value of a relaxed sample is the
    weighted sum of theirs.

    Args:
        width: number `n` of actions.
        estimator: the estimator.
        temperature: temperature of the relaxed sample, where the estimator has one.
    """

    def __init__(self, width: int, estimator: Estimator, temperature: float) -> None:
        super().__init__(width)
        self.estimator = estimator
        self.temperature = temperature
        self.noise_shape = estimator.noise_shape(width)
        self.d_noise = math.prod(self.noise_shape)

    def play(self, noise: Tensor, *statistics: Tensor) -> tuple[Tensor, Tensor]:
        """`[M, B, n]` sample, and `[M, B, 1]` log-probability of the sample: the sum that its weights give."""
        (log_prob,) = statistics
        uniform = uniform_draws(noise).reshape(*noise.shape[:-1], *self.noise_shape)
        sample = self.estimator.sample(log_prob, uniform, self.temperature)
        return sample, expected_value(log_prob, sample).unsqueeze(-1)


def expected_value(values: Tensor, probability: Tensor) -> Tensor:
    """`sum_a p(a) f(a)` of `[..., n]` values and `[M, B, n]` probabilities: `[...]`."""
    return (values * probability).sum(-1)


def action_kind(units: BoxUnits | DiscreteUnits) -> ActionKind:
    """The kind of actions with these units."""
    return NumberedActions(units.width) if units.discrete else ContinuousActions(units.width)
