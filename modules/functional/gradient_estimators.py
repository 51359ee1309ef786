"""Gradients of expectations over categorical samples: three estimators.

Letters: `K` classes, `S` independent draws. Samples are `[..., K]`, one-hot unless relaxed. Noise is an argument,
uniform on [0, 1): drawn at once for all time steps, it keeps random generators out of loops and compiled graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from modules.functional.elementwise import softmax

EstimatorName = Literal["straight_through", "gumbel_softmax", "straight_through_gumbel"]
Objective = Callable[[Tensor], Tensor]
"""`[..., K]` one-hot or relaxed samples to `[...]` values."""


# ---------------------------------------------------------------------------------------------------------- estimators
def straight_through(logits: Tensor, noise: Tensor) -> Tensor:
    """One-hot sample with the gradient of the probabilities, `sample + p - stop_gradient(p)`.

    Source: Bengio et al. 2013, "Estimating or Propagating Gradients Through Stochastic Neurons"
    (https://arxiv.org/abs/1308.3432); as used by Hafner et al. 2021, DreamerV2, Algorithm 1. Biased unless what
    follows is linear in the sample. The sample is drawn by the inverse of the cumulative distribution.

    Args:
        logits: `[..., K]`.
        noise: `[...]` uniform draws, one per sample.
    """
    p = softmax(logits)
    return one_hot(drawn_class(p.detach(), noise), p) + (p - p.detach())


def gumbel_softmax(logits: Tensor, noise: Tensor, temperature: float | Tensor, hard: bool = False) -> Tensor:
    """Sample of the relaxed categorical, or its largest entry as a one-hot vector with the relaxed sample's gradient.

    Source: Jang, Gu & Poole 2017, "Categorical Reparameterization with Gumbel-Softmax"
    (https://arxiv.org/abs/1611.01144), Eq. 2; `hard` is section 2.2.

    Args:
        logits: `[..., K]`.
        noise: `[..., K]` uniform draws.
        temperature: above 0; a low one means less bias and more variance.
        hard: return one-hot samples.
    """
    gumbel = -torch.log(-torch.log(noise.clamp(min=torch.finfo(noise.dtype).tiny)))
    relaxed = softmax((logits + gumbel) / temperature)
    if not hard:
        return relaxed
    return one_hot(relaxed.argmax(-1), relaxed) + (relaxed - relaxed.detach())


def reinforce(log_prob: Tensor, objective: Tensor, baseline: float | Tensor = 0.0) -> Tensor:
    """Loss whose gradient is that of `-E[objective]`: `-log_prob * stop_gradient(objective - baseline)`.

    Source: Williams 1992, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning".
    Unbiased for every baseline that does not depend on the sample.

    Args:
        log_prob: `[...]` log-probability of the sample.
        objective: `[...]` value that is to be raised.
        baseline: `[...]`, subtracted to lower the variance.
    """
    return -log_prob * (objective - baseline).detach()


def drawn_class(p: Tensor, noise: Tensor) -> Tensor:
    """The class at which the sum of the probabilities before it passes a draw, `[...]` int64.

    Args:
        p: `[..., K]`, of any sum.
        noise: `[...]` uniform draws, one per sample.
    """
    cumulative = p.cumsum(-1)
    threshold = noise.unsqueeze(-1) * cumulative[..., -1:]
    # Counting, not looking for the step, is right also where a parallel sum is not quite monotone.
    return (cumulative[..., :-1] <= threshold).sum(-1)


def one_hot(index: Tensor, like: Tensor) -> Tensor:
    """`[...]` indices as one-hot vectors in the shape `[..., K]` and dtype of another tensor."""
    classes = torch.arange(like.shape[-1], device=like.device)
    return (classes == index.unsqueeze(-1)).to(like.dtype)


class Estimator(NamedTuple):
    """A way to draw samples that gradients pass through, to be chosen by name.

    Attributes:
        sample: function of `[..., K]` logits, uniform noise and a temperature that gives `[..., K]` samples.
        noise_shape: function of `K` that gives the shape of one sample's noise, `()` or `(K,)`.
        has_temperature: whether the temperature matters.
        relaxed: whether samples are other than one-hot.
    """

    sample: Callable[[Tensor, Tensor, float | Tensor], Tensor]
    noise_shape: Callable[[int], tuple[int, ...]]
    has_temperature: bool
    relaxed: bool


ESTIMATORS: dict[str, Estimator] = {
    "straight_through": Estimator(lambda x, u, _: straight_through(x, u), lambda _: (), False, False),
    "gumbel_softmax": Estimator(gumbel_softmax, lambda classes: (classes,), True, True),
    "straight_through_gumbel": Estimator(
        lambda x, u, temperature: gumbel_softmax(x, u, temperature, hard=True), lambda classes: (classes,), True, False
    ),
}


def find_estimator(name: str) -> Estimator:
    """The entry of `ESTIMATORS`.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in ESTIMATORS:
        raise ValueError(f"there is no gradient estimator {name!r}; known: {', '.join(ESTIMATORS)}")
    return ESTIMATORS[name]
