"""Heads that predict one number: a trunk, an output layer, and the distribution that the output stands for."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.functional.transforms import from_two_hot, symexp, symlog, to_two_hot
from modules.networks.blocks import OutputLinear
from modules.networks.trunks import Trunk


class Head(nn.Module, ABC):
    """Features to a prediction, whose mean is one number.

    Args:
        d_in: width of the features.
        units: width that the trunk gives.
        trunk: makes a dense network from its widths of input and output.
    """

    def __init__(self, d_in: int, units: int, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk(d_in, units)
        self.output = OutputLinear(units, 1)

    def forward(self, features: Tensor) -> Tensor:
        """`[..., d_in]` to a prediction in float32, `[...]` or `[..., K]`, for the two methods below."""
        return self.output(self.trunk(features)).squeeze(-1)

    @abstractmethod
    def mean(self, prediction: Tensor) -> Tensor:
        """The expected number, `[...]`."""

    @abstractmethod
    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Negative log-likelihood of `[...]` targets, elementwise, without constants."""


class NormalHead(Head):
    """Unit-variance normal: the prediction is its mean."""

    def mean(self, prediction: Tensor) -> Tensor:
        """`[...]`, the prediction."""
        return prediction

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """`(prediction - target)^2 / 2`, `[...]`; the constant `log(2 pi) / 2` is left out."""
        return 0.5 * (prediction - target).square()


class BernoulliHead(Head):
    """Probability of an event: the prediction is its logit."""

    def mean(self, prediction: Tensor) -> Tensor:
        """Probability, `[...]`."""
        return torch.sigmoid(prediction)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy with `[...]` targets in [0, 1], which need not be 0 or 1."""
        return F.binary_cross_entropy_with_logits(prediction, target, reduction="none")


class TwoHotHead(Head):
    """Classes spread evenly over `symlog` of the number; the prediction is their `[..., K]` logits.

    Gradients do not grow with the size of the targets. The output layer starts at zero, so that the first means are 0.

    Source: Hafner et al. 2023 (https://arxiv.org/abs/2301.04104), section "Critic learning".

    Args:
        d_in: width of the features.
        units: width that the trunk gives.
        trunk: makes a dense network from its widths of input and output.
        bins: `K`, at least 2.
        low: `symlog` of the smallest number that can be told.
        high: the same of the largest.

    Raises:
        ValueError: fewer than two bins, or no range.
    """

    bins: Tensor

    def __init__(
        self, d_in: int, units: int, trunk: Trunk, bins: int = 255, low: float = -20.0, high: float = 20.0
    ) -> None:
        if bins < 2 or low >= high:
            raise ValueError(f"a two-hot head needs 2 bins or more from low to high, got {bins} from {low} to {high}")
        super().__init__(d_in, units, trunk)
        self.output = OutputLinear(units, bins)
        nn.init.zeros_(self.output.weight)
        self.register_buffer("bins", torch.linspace(low, high, bins, dtype=torch.float64).float())

    def mean(self, prediction: Tensor) -> Tensor:
        """`symexp` of the expected bin, `[...]`."""
        return symexp(from_two_hot(prediction.softmax(-1), self.bins))

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy with the two bins around `symlog` of `[...]` targets."""
        return -(to_two_hot(symlog(target), self.bins) * prediction.log_softmax(-1)).sum(-1)
