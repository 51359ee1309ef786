"""The meaning of a value network's outputs: one number, or a distribution of numbers.

A codec turns predictions into values in the units of the reward, and targets in these units into a loss. Letters: `K`
outputs per value, `J` atoms of a distribution. Where `K` is 1, predictions have no last axis: `[...]`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.arguments.checks import check_counts, check_intervals, check_positive, check_ranges, check_sizes
from modules.functional.popart import LARGEST, SMALLEST, deviation, moving_moments, rescale_factors
from modules.functional.transforms import (
    EPS,
    TransformName,
    from_two_hot,
    project,
    to_two_hot,
    value_transform,
)


class ValueCodec(nn.Module, ABC):
    """Meaning of `[..., K]` predictions, `[...]` where `K` is 1."""

    width: int = 1
    """Number `K` of outputs per value."""

    starts_at_zero: bool = False
    """Whether the weights of the output layer start at zero."""

    squared: bool = False
    """Whether the loss is half a squared error, so that a Bellman residual is one with a gradient in its target."""

    @abstractmethod
    def mean(self, prediction: Tensor) -> Tensor:
        """The expected number, `[...]`, in the units of the reward."""

    @abstractmethod
    def atoms(self, prediction: Tensor) -> tuple[Tensor, Tensor]:
        """The predicted distribution: numbers `[..., J]` in the units of the reward, and probabilities `[..., J]`."""

    def reach(self, target: Tensor) -> Tensor:
        """Distance `[...]` of numbers from the middle of what can be told: 1 is the edge, and 0 if there is none."""
        return torch.zeros_like(target)

    @abstractmethod
    def loss(self, prediction: Tensor, target: Tensor, probability: Tensor | None = None) -> Tensor:
        """Elementwise loss, `[...]`, without constants.

        Args:
            prediction: `[..., K]`.
            target: `[...]` numbers in the units of the reward; with probabilities, atoms `[..., J]`.
            probability: `[..., J]` of the atoms; the loss is then the expected one.
        """


class Scalar(ValueCodec):
    """The number itself, or a transform of it: the mean of a unit-variance normal.

    Args:
        transform: `h`; the prediction is `h` of the number.
        eps: parameter of `signed_hyperbolic`.

    Raises:
        ValueError: an unknown transform, or an `eps` that does not fit it.
    """

    squared = True

    def __init__(self, transform: TransformName = "identity", eps: float = EPS) -> None:
        super().__init__()
        self.transform = value_transform(transform, eps)

    def mean(self, prediction: Tensor) -> Tensor:
        """`h^-1` of the prediction, `[...]`."""
        return self.transform.inverse(prediction)

    def atoms(self, prediction: Tensor) -> tuple[Tensor, Tensor]:
        """One atom, the mean."""
        return _certain(self.mean(prediction))

    def loss(self, prediction: Tensor, target: Tensor, probability: Tensor | None = None) -> Tensor:
        """`(prediction - h(target))^2 / 2`, `[...]`."""
        return _expected(
            0.5 * (_against(prediction, probability) - self.transform.forward(target)).square(), probability
        )


class Bernoulli(ValueCodec):
    """Probability of an event: the prediction is its logit."""

    def mean(self, prediction: Tensor) -> Tensor:
        """Probability, `[...]`."""
        return torch.sigmoid(prediction)

    def atoms(self, prediction: Tensor) -> tuple[Tensor, Tensor]:
        """The two atoms, 0 and 1."""
        logits = torch.stack([-prediction, prediction], -1)
        return torch.arange(2.0, device=logits.device).expand_as(logits), torch.sigmoid(logits)

    def loss(self, prediction: Tensor, target: Tensor, probability: Tensor | None = None) -> Tensor:
        """Cross-entropy with targets in [0, 1], which need not be 0 or 1: `[...]`."""
        logits = _against(prediction, probability).expand_as(target)
        return _expected(F.binary_cross_entropy_with_logits(logits, target, reduction="none"), probability)


class TwoHot(ValueCodec):
    """Classes at evenly spread bins of a transform of the number; the prediction is their `[..., K]` logits.

    Gradients do not grow with the size of the targets. The output layer starts at zero, so that the first means are 0
    where the bins are symmetric. With `spacing: identity` and a distribution as target, this is C51.

    Sources: Hafner et al. 2023 (https://arxiv.org/abs/2301.04104), section "Critic learning"; Schrittwieser et al. 2020
    (https://arxiv.org/abs/1911.08265), appendix F; Bellemare et al. 2017 (https://arxiv.org/abs/1707.06887).

    Args:
        bins: number of bins `K`, at least 2.
        low: `h` of the smallest number that can be told.
        high: `h` of the largest number.
        spacing: `h`, under which the bins lie evenly. Not named as in other codecs: where one class takes another's
            place in a config, arguments of one name are taken over, and the default here is another.
        eps: parameter of `signed_hyperbolic`.
        unbiased: whether targets are split between, and means taken of, `h^-1` of the bins, of which `h` then only says
            where they lie. By default a mean is `h^-1` of the expected bin: wrong where a number is uncertain.

    Raises:
        ValueError: fewer than two bins, no range, or a spacing that is unknown or does not fit `eps`.
    """

    bins: Tensor
    starts_at_zero = True
    fixed_on_resume: ClassVar[dict[str, str]] = dict.fromkeys(
        ("low", "high", "spacing", "eps", "unbiased"), "what was learned is about the old bins"
    )

    def __init__(
        self,
        bins: int = 255,
        low: float = -20.0,
        high: float = 20.0,
        spacing: TransformName = "symlog",
        eps: float = EPS,
        unbiased: bool = False,
    ) -> None:
        check_counts(2, bins=bins)
        check_intervals(**{"the range from low to high": (low, high)})
        super().__init__()
        self.width = bins
        self.range = low, high
        self.spacing = spacing
        self.unbiased = unbiased
        self.transform = self._spread = value_transform(spacing, eps)
        grid = torch.linspace(low, high, bins, dtype=torch.float64)
        if unbiased:
            grid = self.transform.inverse(grid)
            self.transform = value_transform("identity")
        self.register_buffer("bins", grid.float())

    def mean(self, prediction: Tensor) -> Tensor:
        """Expected number, `[...]`, as `unbiased` says."""
        return self.transform.inverse(from_two_hot(prediction.softmax(-1), self.bins))

    def reach(self, target: Tensor) -> Tensor:
        """Distance where the bins lie evenly."""
        return (2.0 * self._spread.forward(target) - sum(self.range)).abs() / (self.range[1] - self.range[0])

    def atoms(self, prediction: Tensor) -> tuple[Tensor, Tensor]:
        """`h^-1` of the bins, with the probabilities of the classes."""
        return self.transform.inverse(self.bins).expand_as(prediction), prediction.softmax(-1)

    def loss(self, prediction: Tensor, target: Tensor, probability: Tensor | None = None) -> Tensor:
        """Cross-entropy with the bins around the targets, `[...]`."""
        position = self.transform.forward(target)
        weights = to_two_hot(position, self.bins) if probability is None else project(position, probability, self.bins)
        return -(weights * prediction.log_softmax(-1)).sum(-1)


class Quantiles(ValueCodec):
    """The distribution by its quantiles at `(i + 1/2) / K`; the prediction is the transform of each, `[..., K]`.

    Source: Dabney et al. 2018, "Distributional Reinforcement Learning with Quantile Regression"
    (https://arxiv.org/abs/1710.10044), section "Quantile Huber loss".

    Args:
        count: number of quantiles `K`, at least 2.
        kappa: errors up to this size count quadratically; the loss is divided by it, so that far from the target its
            slope is the same for all (Dabney et al. 2018, https://arxiv.org/abs/1806.06923, equation 3).
        transform: `h`; quantiles of a transform are the transform of the quantiles.
        eps: parameter of `signed_hyperbolic`.

    Raises:
        ValueError: fewer than two quantiles, `kappa` is not positive, or a transform that is unknown or does not fit.
    """

    share: Tensor

    def __init__(
        self, count: int = 32, kappa: float = 1.0, transform: TransformName = "identity", eps: float = EPS
    ) -> None:
        check_counts(2, count=count)
        check_positive(kappa=kappa)
        super().__init__()
        self.width = count
        self.kappa = kappa
        self.transform = value_transform(transform, eps)
        self.register_buffer("share", (torch.arange(count, dtype=torch.float64).add(0.5) / count).float())

    def mean(self, prediction: Tensor) -> Tensor:
        """Mean of `h^-1` of the quantiles, `[...]`."""
        return self.transform.inverse(prediction).mean(-1)

    def atoms(self, prediction: Tensor) -> tuple[Tensor, Tensor]:
        """`h^-1` of the quantiles, each with the probability `1 / K`."""
        return self.transform.inverse(prediction), torch.full_like(prediction, 1.0 / self.width)

    def loss(self, prediction: Tensor, target: Tensor, probability: Tensor | None = None) -> Tensor:
        """Quantile Huber loss between all quantiles and all atoms: summed over quantiles, expected over atoms."""
        atoms = self.transform.forward(target if probability is not None else target.unsqueeze(-1))
        error = atoms.unsqueeze(-2) - prediction.unsqueeze(-1)  # [..., K, J]
        size = error.abs()
        huber = torch.where(size <= self.kappa, 0.5 / self.kappa * error.square(), size - 0.5 * self.kappa)
        pull = torch.where(error < 0.0, 1.0 - self.share.unsqueeze(-1), self.share.unsqueeze(-1))
        loss = (pull * huber).sum(-2)
        return _expected(loss, probability) if probability is not None else loss.squeeze(-1)


class Normalized(ValueCodec):
    """Numbers in units of their own mean and deviation, which follow the targets; one output per task (PopArt).

    The prediction is `(number - mu_k) / sigma_k`. Only `update_statistics` changes the statistics, and whoever calls it
    rescales the output layer by what it returns, so that no prediction changes its meaning.

    The statistics are float64: the variance is a difference of squares, which float32 loses where the mean is some
    thousand deviations from zero.

    Source: van Hasselt et al. 2016, "Learning values across many orders of magnitude"
    (https://arxiv.org/abs/1602.07714); Hessel et al. 2019, "Multi-task Deep Reinforcement Learning with PopArt"
    (https://arxiv.org/abs/1809.04474).

    Args:
        tasks: number of tasks `K`.
        smallest: limit of the deviation from below. With targets that may be all alike at first, such as those of rare
            rewards, a larger one keeps the first errors small.
        largest: limit from above.

    Raises:
        ValueError: no tasks, or limits out of order.
    """

    mu: Tensor
    nu: Tensor
    sigma: Tensor
    weight: Tensor
    squared = True

    def __init__(self, tasks: int = 1, smallest: float = SMALLEST, largest: float = LARGEST) -> None:
        check_sizes(tasks=tasks)
        check_ranges(("smallest", smallest, 1e-30, largest))
        super().__init__()
        self.width = tasks
        self.smallest = smallest
        self.largest = largest
        for name, start in (("mu", 0.0), ("nu", 1.0), ("sigma", 1.0), ("weight", 0.0)):
            self.register_buffer(name, torch.full((tasks,), start, dtype=torch.float64))

    def mean(self, prediction: Tensor, task: Tensor | None = None) -> Tensor:
        """The number, `[...]`.

        Args:
            prediction: `[..., K]`, in normalised units.
            task: `[...]` int64, which output; not needed where `K` is 1.

        Raises:
            ValueError: no task is given where `K` is above 1.
        """
        chosen, mu, sigma = self._of(prediction, task)
        return (chosen.double() * sigma + mu).to(prediction.dtype)

    def atoms(self, prediction: Tensor, task: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One atom, the mean; arguments as there."""
        return _certain(self.mean(prediction, task))

    def loss(
        self, prediction: Tensor, target: Tensor, probability: Tensor | None = None, task: Tensor | None = None
    ) -> Tensor:
        """`(prediction_k - (target - mu_k) / sigma_k)^2 / 2`, `[...]`: an error in normalised units.

        Args:
            prediction: `[..., K]`, in normalised units.
            target: `[...]` numbers, or atoms `[..., J]` with their probabilities.
            probability: `[..., J]`.
            task: `[...]` int64, which output; not needed where `K` is 1.

        Raises:
            ValueError: no task is given where `K` is above 1.
        """
        chosen, mu, sigma = (_against(x, probability) for x in self._of(prediction, task))
        normalized = ((target.double() - mu) / sigma).to(prediction.dtype)
        return _expected(0.5 * (chosen - normalized).square(), probability)

    def _of(self, prediction: Tensor, task: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Prediction `[...]`, mean and deviation of the chosen task."""
        if self.width == 1:
            return prediction, self.mu[0], self.sigma[0]
        if task is None:
            raise ValueError(f"a value of {self.width} tasks needs the task of each number, and none was given")
        chosen = torch.take_along_dim(prediction, task.unsqueeze(-1), -1).squeeze(-1)
        return chosen, self.mu[task], self.sigma[task]

    @torch.no_grad()
    def update_statistics(self, total: Tensor, squares: Tensor, count: Tensor, decay: float) -> tuple[Tensor, Tensor]:
        """Move the moments towards those of a batch, in place; see `moving_moments`.

        Args:
            total: `[K]` sum of each task's targets.
            squares: `[K]` sum of their squares. Give all three in float64.
            count: `[K]` how many there are; where it is 0, nothing changes.
            decay: share of the way, once the first batches are forgotten.

        Returns:
            Scale and shift `[K]`: `scale * prediction + shift` means under the new statistics what the prediction meant
            under the old ones.
        """
        mu, nu, weight = moving_moments((self.mu, self.nu, self.weight), (total, squares, count), decay)
        sigma = torch.where(count > 0, deviation(mu, nu, self.smallest, self.largest), self.sigma)
        factors = rescale_factors((self.mu, self.sigma), (mu, sigma))
        for buffer, value in ((self.mu, mu), (self.nu, nu), (self.sigma, sigma), (self.weight, weight)):
            buffer.copy_(value)
        return factors


def _certain(number: Tensor) -> tuple[Tensor, Tensor]:
    atom = number.unsqueeze(-1)
    return atom, torch.ones_like(atom)


def _against(prediction: Tensor, probability: Tensor | None) -> Tensor:
    """The prediction with an axis for atoms, where there are any."""
    return prediction if probability is None else prediction.unsqueeze(-1)


def _expected(loss: Tensor, probability: Tensor | None) -> Tensor:
    """The loss expected over atoms, where there are any."""
    return loss if probability is None else (probability * loss).sum(-1)
