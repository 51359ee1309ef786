"""Policies on features: distributions over actions as a world model sees them, and maps to the environment's own.

See `modules.networks.actor_base.Actor` for what all of them have in common.
"""

from __future__ import annotations

from abc import abstractmethod

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from modules.arguments.checks import check_shares
from modules.functional.distributions import (
    gauss_hermite,
    tanh_normal_entropy,
    tanh_normal_log_prob,
    tanh_normal_sample,
    truncated_normal_entropy,
    truncated_normal_log_prob,
    truncated_normal_sample,
)
from modules.functional.elementwise import log_softmax
from modules.functional.gradient_estimators import EstimatorName, find_estimator, one_hot
from modules.functional.transforms import from_unit, to_unit
from modules.networks.action_spaces import action_width
from modules.networks.actor_base import Actor
from modules.networks.trunks import Trunk


class DiscreteActor(Actor):
    """One categorical for each number of the action; the statistics are their log-probabilities side by side.

    Args:
        space: Discrete, or a flat MultiDiscrete, whose numbers are drawn independently.
        d_features: width `F` of the features.
        trunk: makes a dense network from its widths of input and output.
        units: width that the trunk gives.
        unimix: share of the uniform distribution in every categorical, in [0, 1).
        estimator: name of the estimator by which gradients pass through samples.
        temperature: temperature of that estimator, where it has one; the buffer `temperature` may change during a run.
        output_scale: factor of the output layer's first weights, such as 0.01 for a policy that starts out even.

    Raises:
        ValueError: another estimator, a temperature that would be ignored, or a share outside of its range.
    """

    group: Tensor
    value: Tensor
    start: Tensor
    temperature: Tensor

    def __init__(
        self,
        space: gym.spaces.Discrete | gym.spaces.MultiDiscrete,
        d_features: int,
        trunk: Trunk,
        units: int,
        unimix: float = 0.0,
        estimator: EstimatorName = "straight_through",
        temperature: float | None = None,
        output_scale: float = 1.0,
    ) -> None:
        self.sizes = [int(space.n)] if isinstance(space, gym.spaces.Discrete) else [int(n) for n in space.nvec]
        super().__init__(action_width(space), sum(self.sizes), d_features, trunk, units, output_scale)
        self.estimator = find_estimator(estimator)
        if temperature is not None and not self.estimator.has_temperature:
            raise ValueError(f"estimator {estimator} has no temperature, but {temperature} is given")
        check_shares(unimix=unimix)
        self.unimix = unimix
        self.single = isinstance(space, gym.spaces.Discrete)
        start = torch.as_tensor(np.atleast_1d(np.asarray(space.start, np.int64)))
        self.register_buffer("start", start)
        self.register_buffer("group", torch.arange(len(self.sizes)).repeat_interleave(torch.tensor(self.sizes)))
        self.register_buffer(
            "value", torch.cat([first + torch.arange(size) for first, size in zip(start, self.sizes, strict=True)])
        )
        self.register_buffer("temperature", torch.tensor(1.0 if temperature is None else temperature), persistent=False)
        self.noise_sizes = [int(np.prod(self.estimator.noise_shape(size))) for size in self.sizes]

    def forward(self, features: Tensor) -> Tensor:
        """`[..., F]` to `[..., A]` log-probabilities."""
        parts = self.output(self.trunk(features)).split(self.sizes, -1)
        return torch.cat([self._mix(log_softmax(part)) for part in parts], -1)

    def _mix(self, log_probs: Tensor) -> Tensor:
        if self.unimix == 0.0:
            return log_probs
        return torch.log((1.0 - self.unimix) * log_probs.exp() + self.unimix / log_probs.shape[-1])

    def noise(
        self, *shape: int, device: torch.device | str | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Uniform draws, `[*shape, N]`."""
        return torch.rand(*shape, sum(self.noise_sizes), device=device, generator=generator)

    def sample(self, stats: Tensor, noise: Tensor) -> Tensor:
        """One-hot vectors side by side, `[..., A]`; weights between 0 and 1 where the estimator relaxes samples."""
        parts = []
        for logits, draws, size in zip(
            stats.split(self.sizes, -1), noise.split(self.noise_sizes, -1), self.sizes, strict=True
        ):
            draws = draws.reshape(*draws.shape[:-1], *self.estimator.noise_shape(size))
            parts.append(self.estimator.sample(logits, draws, self.temperature))
        return torch.cat(parts, -1)

    def mode(self, stats: Tensor) -> Tensor:
        """The most likely action, one-hot, `[..., A]`."""
        return self._largest(stats)

    def executed(self, action: Tensor) -> Tensor:
        """The class that a relaxed sample stands for, one-hot, `[..., A]`; other samples are classes already."""
        return self._largest(action) if self.estimator.relaxed else action

    def _largest(self, entries: Tensor) -> Tensor:
        return torch.cat([one_hot(part.argmax(-1), part) for part in entries.split(self.sizes, -1)], -1)

    def log_prob(self, stats: Tensor, action: Tensor) -> Tensor:
        """Log-probability of one-hot `[..., A]` actions, `[...]`."""
        return (stats * action).sum(-1)

    def entropy(self, stats: Tensor) -> Tensor:
        """Sum of the categoricals' entropies, `[...]`."""
        return -(stats.exp() * stats).sum(-1)

    def encode(self, action: Tensor) -> Tensor:
        """`[...]` of a Discrete space, or `[..., G]`, to one-hot vectors side by side, `[..., A]`."""
        numbers = action.unsqueeze(-1) if self.single else action
        return (numbers.index_select(-1, self.group) == self.value).float()

    def decode(self, action: Tensor) -> Tensor:
        """The largest entries, counted from the space's start: int64 `[...]` of a Discrete space, or `[..., G]`."""
        numbers = torch.stack([part.argmax(-1) for part in action.split(self.sizes, -1)], -1) + self.start
        return numbers.squeeze(-1) if self.single else numbers


class BoxActor(Actor):
    """Actions of a bounded flat Box, whose range [-1, 1] stands for.

    Args:
        space: bounded flat Box.
        outputs: width of the output layer.
        d_features: width `F` of the features.
        trunk: makes a dense network from its widths of input and output.
        units: width that the trunk gives.
        output_scale: factor of the output layer's first weights.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        space: gym.spaces.Box,
        outputs: int,
        d_features: int,
        trunk: Trunk,
        units: int,
        output_scale: float = 1.0,
    ) -> None:
        super().__init__(action_width(space), outputs, d_features, trunk, units, output_scale)
        self.register_buffer("low", torch.as_tensor(space.low, dtype=torch.float32))
        self.register_buffer("high", torch.as_tensor(space.high, dtype=torch.float32))

    def noise(
        self, *shape: int, device: torch.device | str | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Standard normal draws, `[*shape, A]`."""
        return torch.randn(*shape, self.width, device=device, generator=generator)

    def encode(self, action: Tensor) -> Tensor:
        """`[..., A]` actions in the box's units to [-1, 1]."""
        return to_unit(action.float(), self.low, self.high)

    def decode(self, action: Tensor) -> Tensor:
        """`[..., A]` actions in [-1, 1] to the box's units, float32, with no rounding past a bound."""
        return from_unit(action, self.low, self.high).clamp(self.low, self.high)


class ContinuousActor(BoxActor):
    """A distribution on [-1, 1] for each dimension of a box; the statistics are locations and deviations, `[..., 2 A]`.

    Args:
        space: bounded flat Box; [-1, 1] stands for its range.
        d_features: width `F` of the features.
        trunk: makes a dense network from its widths of input and output.
        units: width that the trunk gives.
        min_std: smallest deviation.
        init_std: number that is added to the network's output before it becomes a deviation.
        output_scale: factor of the output layer's first weights.
    """

    def __init__(
        self,
        space: gym.spaces.Box,
        d_features: int,
        trunk: Trunk,
        units: int,
        min_std: float = 0.1,
        init_std: float = 0.0,
        output_scale: float = 1.0,
    ) -> None:
        super().__init__(space, 2 * space.shape[0], d_features, trunk, units, output_scale)
        self.min_std = min_std
        self.init_std = init_std

    def forward(self, features: Tensor) -> Tensor:
        """`[..., F]` to `[..., 2 A]` locations and deviations."""
        location, std = self.output(self.trunk(features)).chunk(2, -1)
        return torch.cat(self._bound(location, std + self.init_std), -1)

    @abstractmethod
    def _bound(self, location: Tensor, std: Tensor) -> tuple[Tensor, Tensor]: ...


class TruncatedNormalActor(ContinuousActor):
    """Normals truncated to [-1, 1]: mean `tanh(m)`, deviation `2 sigmoid(s / 2) + min_std`.

    Source: github.com/danijar/dreamerv2, `trunc_normal`; Hafner et al. 2021 (https://arxiv.org/abs/2010.02193).
    """

    def _bound(self, location: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tanh(location), 2.0 * torch.sigmoid(0.5 * std) + self.min_std

    def noise(
        self, *shape: int, device: torch.device | str | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Uniform draws, `[*shape, A]`."""
        return torch.rand(*shape, self.width, device=device, generator=generator)

    def sample(self, stats: Tensor, noise: Tensor) -> Tensor:
        """Reparametrised samples, `[..., A]`."""
        mean, std = stats.chunk(2, -1)
        return truncated_normal_sample(mean, std, noise)

    def mode(self, stats: Tensor) -> Tensor:
        """The most likely action, which is the mean before truncation, `[..., A]`."""
        return stats.chunk(2, -1)[0]

    def log_prob(self, stats: Tensor, action: Tensor) -> Tensor:
        """Joint log-density of `[..., A]` actions, `[...]`."""
        return truncated_normal_log_prob(action, *stats.chunk(2, -1)).sum(-1)

    def entropy(self, stats: Tensor) -> Tensor:
        """Exact entropy, `[...]`."""
        return truncated_normal_entropy(*stats.chunk(2, -1)).sum(-1)


class TanhNormalActor(ContinuousActor):
    """Normals squashed by tanh: mean `5 tanh(m / 5)` and deviation `softplus(s) + min_std` before squashing.

    Source: github.com/danijar/dreamerv2, `tanh_normal`. There the entropy and the mode are taken from 100 samples; here
    from a quadrature, and the squashed mean.
    """

    nodes: Tensor
    weights: Tensor

    def __init__(
        self,
        space: gym.spaces.Box,
        d_features: int,
        trunk: Trunk,
        units: int,
        min_std: float = 0.1,
        init_std: float = 0.0,
        output_scale: float = 1.0,
    ) -> None:
        super().__init__(space, d_features, trunk, units, min_std, init_std, output_scale)
        nodes, weights = gauss_hermite(32)
        self.register_buffer("nodes", nodes, persistent=False)
        self.register_buffer("weights", weights, persistent=False)

    def _bound(self, location: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        return 5.0 * torch.tanh(location / 5.0), F.softplus(std) + self.min_std

    def sample(self, stats: Tensor, noise: Tensor) -> Tensor:
        """Reparametrised samples, `[..., A]`."""
        mean, std = stats.chunk(2, -1)
        return tanh_normal_sample(mean, std.log(), noise)[0]

    def mode(self, stats: Tensor) -> Tensor:
        """The squashed mean, which is the median, `[..., A]`."""
        return torch.tanh(stats.chunk(2, -1)[0])

    def log_prob(self, stats: Tensor, action: Tensor) -> Tensor:
        """Joint log-density of `[..., A]` actions, `[...]`."""
        mean, std = stats.chunk(2, -1)
        return tanh_normal_log_prob(action, mean, std.log()).sum(-1)

    def entropy(self, stats: Tensor) -> Tensor:
        """Entropy by quadrature, `[...]`."""
        mean, std = stats.chunk(2, -1)
        return tanh_normal_entropy(mean, std.log(), self.nodes, self.weights).sum(-1)
