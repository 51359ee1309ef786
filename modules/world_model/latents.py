"""Stochastic states of world models: what posterior and prior outputs mean, how they are sampled and compared.

Letters: `S` width of a sample, `G` groups, `K` classes of a group. Everything is float32 whatever the autocast, plain
tensor code, and noise is an argument: no random generator in loops and compiled graphs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modules.arguments.checks import check_positive, check_shares
from modules.functional.divergences import (
    categorical_entropy,
    categorical_kl,
    gaussian_entropy,
    gaussian_kl,
    mix_uniform,
)
from modules.functional.gradient_estimators import EstimatorName, find_estimator
from modules.functional.schedules import parse_schedule


class Latent(nn.Module):
    """The stochastic state of a world model.

    Attributes:
        width: width `S` of a sample as networks see it.
        posterior_width: width of the raw network output that stands for the posterior.
        prior_width: width of the raw network output that stands for the prior.
    """

    width: int
    posterior_width: int
    prior_width: int

    def noise(
        self, *shape: int, device: torch.device | str | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """All the noise that samples of this shape need: `[*shape, ...]`, for `sample` as for `imagine`."""
        raise NotImplementedError

    def sample(self, posterior: Tensor, noise: Tensor) -> Tensor:
        """`[..., posterior_width]` to a sample `[..., S]`, with a gradient."""
        raise NotImplementedError

    def imagine(self, prior: Tensor, noise: Tensor) -> Tensor:
        """`[..., prior_width]` to a sample `[..., S]`, with a gradient."""
        raise NotImplementedError

    def kl(self, posterior: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        """Dynamic and representation term, `[...]` each, equal in value.

        Returns:
            `KL(stop_gradient(posterior) || prior)` and `KL(posterior || stop_gradient(prior))`, in nats.
        """
        return self.divergence(posterior.detach(), prior), self.divergence(posterior, prior.detach())

    def divergence(self, posterior: Tensor, prior: Tensor) -> Tensor:
        """`KL(posterior || prior)` in nats, `[...]`."""
        raise NotImplementedError

    def posterior_entropy(self, posterior: Tensor) -> Tensor:
        """Entropy in nats, `[...]`."""
        raise NotImplementedError

    def prior_entropy(self, prior: Tensor) -> Tensor:
        """Entropy in nats, `[...]`."""
        raise NotImplementedError

    def auxiliary_losses(self, posterior: Tensor) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Further losses by name, unreduced `[...]`, and their weights; none for most latents."""
        return {}, {}

    def adapt(self, posterior: Tensor) -> None:
        """After an update: learn what no gradient teaches, from `[..., posterior_width]`; nothing for most latents."""

    def advance(self, updates: int) -> None:
        """Set what changes over time to its value after so many updates; nothing for most latents."""


class DiscreteLatent(Latent):
    """One of `K` choices in each of `G` groups: the base of its kinds.

    Args:
        groups: number of groups `G`.
        classes: number of classes `K` of a group.
        estimator: estimator by which gradients pass through samples.
        temperature: temperature of the Gumbel-softmax estimators, a number or a schedule over updates.

    Raises:
        ValueError: a number is out of range, the estimator is unknown, or the temperature would be ignored.
    """

    temperature: Tensor

    def __init__(self, groups: int, classes: int, estimator: EstimatorName, temperature: float | str) -> None:
        super().__init__()
        check_positive(groups=groups, classes=classes)
        self.groups = groups
        self.classes = classes
        self.estimator = find_estimator(estimator)
        self.schedule = parse_schedule(temperature)
        if min(self.schedule.start, self.schedule.end) <= 0.0:
            raise ValueError(f"a temperature must stay above 0, but is {temperature}")
        if temperature != 1.0 and not self.estimator.has_temperature:
            raise ValueError(f"temperature {temperature} would be ignored: {estimator} has none; leave it out")
        self.register_buffer("temperature", torch.tensor(self.schedule(0)), persistent=False)

    def posterior_logits(self, posterior: Tensor) -> Tensor:
        """`[..., posterior_width]` network output to `[..., G, K]`."""
        raise NotImplementedError

    def prior_logits(self, prior: Tensor) -> Tensor:
        """`[..., prior_width]` network output to `[..., G, K]`."""
        raise NotImplementedError

    def noise(
        self, *shape: int, device: torch.device | str | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Uniform draws, `[*shape, G]` or `[*shape, G, K]` as the estimator needs it."""
        each = self.estimator.noise_shape(self.classes)
        return torch.rand(*shape, self.groups, *each, device=device, generator=generator)

    def choose(self, logits: Tensor, noise: Tensor) -> Tensor:
        """`[..., G, K]` logits to one-hot vectors, with the estimator's gradient."""
        return self.estimator.sample(logits, noise, self.temperature)

    def divergence(self, posterior: Tensor, prior: Tensor) -> Tensor:
        """`KL(posterior || prior)`, summed over groups, `[...]`."""
        return categorical_kl(self.posterior_logits(posterior), self.prior_logits(prior))

    def posterior_entropy(self, posterior: Tensor) -> Tensor:
        """Entropy summed over groups, `[...]`."""
        return categorical_entropy(self.posterior_logits(posterior))

    def prior_entropy(self, prior: Tensor) -> Tensor:
        """Entropy summed over groups, `[...]`."""
        return categorical_entropy(self.prior_logits(prior))

    def advance(self, updates: int) -> None:
        """Set the temperature."""
        if not self.schedule.is_constant:
            self.temperature.fill_(self.schedule(updates))


class CategoricalLatent(DiscreteLatent):
    """`G` one-hot vectors of `K` classes.

    Source: Hafner et al. 2021, "Mastering Atari with Discrete World Models" (https://arxiv.org/abs/2010.02193).

    Args:
        groups: number of groups `G`.
        classes: number of classes `K` of a group.
        estimator: estimator by which gradients pass through samples; those of `gumbel_softmax` are relaxed, not
            one-hot.
        temperature: temperature of the Gumbel-softmax estimators, a number or a schedule over updates such as
            `cosine(1, 0.0625, 150000)`; see `modules.functional.schedules.parse_schedule`.
        unimix: share of the uniform distribution in posterior and prior; 0 in DreamerV2, 0.01 in DreamerV3.

    Raises:
        ValueError: a number is out of range, the estimator is unknown, or the temperature would be ignored.
    """

    def __init__(
        self,
        groups: int = 32,
        classes: int = 32,
        estimator: EstimatorName = "straight_through",
        temperature: float | str = 1.0,
        unimix: float = 0.0,
    ) -> None:
        super().__init__(groups, classes, estimator, temperature)
        check_shares(unimix=unimix)
        self.unimix = unimix
        self.width = self.posterior_width = self.prior_width = groups * classes

    def posterior_logits(self, posterior: Tensor) -> Tensor:
        """`[..., G * K]` to `[..., G, K]`, mixed with the uniform distribution."""
        return mix_uniform(posterior.float().unflatten(-1, (self.groups, self.classes)), self.unimix)

    def prior_logits(self, prior: Tensor) -> Tensor:
        """The same as `posterior_logits`."""
        return self.posterior_logits(prior)

    def sample(self, posterior: Tensor, noise: Tensor) -> Tensor:
        """`[..., G * K]` to `[..., G * K]`: one-hot vectors, with the estimator's gradient."""
        return self.choose(self.posterior_logits(posterior), noise).flatten(-2)

    def imagine(self, prior: Tensor, noise: Tensor) -> Tensor:
        """The same as `sample`."""
        return self.sample(prior, noise)


class GaussianLatent(Latent):
    """A diagonal normal, with standard deviations `2 sigmoid(s / 2) + 0.1`.

    Source: the option `discrete: False` of DreamerV2's official code; Hafner et al. 2020, "Dream to Control"
    (https://arxiv.org/abs/1912.01603), uses 30 dimensions.

    Args:
        size: number of dimensions `S`.

    Raises:
        ValueError: the size is not positive.
    """

    def __init__(self, size: int = 30) -> None:
        super().__init__()
        check_positive(size=size)
        self.width = size
        self.posterior_width = 2 * size
        self.prior_width = 2 * size

    def noise(
        self, *shape: int, device: torch.device | str | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Standard normal draws, `[*shape, S]`."""
        return torch.randn(*shape, self.width, device=device, generator=generator)

    def moments(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """`[..., 2 S]` network output to mean and standard deviation, `[..., S]` each."""
        mean, s = raw.float().chunk(2, -1)
        return mean, 2.0 * torch.sigmoid(0.5 * s) + 0.1

    def sample(self, posterior: Tensor, noise: Tensor) -> Tensor:
        """`[..., 2 S]` to `[..., S]`, reparametrised: `mean + std * noise`."""
        mean, std = self.moments(posterior)
        return mean + std * noise

    def imagine(self, prior: Tensor, noise: Tensor) -> Tensor:
        """The same as `sample`."""
        return self.sample(prior, noise)

    def divergence(self, posterior: Tensor, prior: Tensor) -> Tensor:
        """`KL(posterior || prior)`, summed over dimensions, `[...]`."""
        return gaussian_kl(*self.moments(posterior), *self.moments(prior))

    def posterior_entropy(self, posterior: Tensor) -> Tensor:
        """Differential entropy, summed over dimensions, `[...]`."""
        return gaussian_entropy(self.moments(posterior)[1])

    def prior_entropy(self, prior: Tensor) -> Tensor:
        """Differential entropy, summed over dimensions, `[...]`."""
        return gaussian_entropy(self.moments(prior)[1])
