"""Bias and variance of the gradient estimators, against the exact gradient of a small categorical expectation.

    python benchmarks/estimator_table.py [--draws 200000] [--classes 8] [--seed 0]

Prints a markdown table. The expectation is of `|sample - target|^2 + exp(sample . weight)`, random target and weight:
as curved as what follows a latent in a network. Everything is relative to the length of the exact gradient.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import torch
from torch import Tensor

from modules.functional.gradient_estimators import (
    ESTIMATORS,
    Objective,
    find_estimator,
    reinforce,
    straight_through,
)

TEMPERATURES = (2.0, 1.0, 0.5, 0.1)


class GradientError(NamedTuple):
    """How a set of estimates relates to the exact gradient.

    Attributes:
        bias: Euclidean norm of the mean's distance from the exact gradient.
        variance: variance of one estimate, summed over the `K` logits.
        standard_error: standard error of the mean, the size of `bias` that chance alone would give.
    """

    bias: Tensor
    variance: Tensor
    standard_error: Tensor


def exact_gradient(objective: Objective, logits: Tensor) -> Tensor:
    """`[K]` gradient of `E[objective(sample)]` by enumeration, at `[K]` logits."""
    logits = logits.detach().requires_grad_()
    values = objective(torch.eye(len(logits), dtype=logits.dtype, device=logits.device)).detach()
    return torch.autograd.grad(logits.softmax(-1) @ values, logits)[0]


def pathwise_gradients(
    objective: Objective, logits: Tensor, name: str, temperature: float, draws: int, generator: torch.Generator
) -> Tensor:
    """`[S, K]` independent estimates of `exact_gradient` through the samples of a named estimator.

    Args:
        objective: must be defined between one-hot vectors too.
        logits: `[K]`.
        name: one of `ESTIMATORS`.
        temperature: temperature of the estimator, if it has one.
        draws: number of draws `S`.
        generator: generator of the noise.
    """
    estimator = find_estimator(name)
    rows = logits.detach().expand(draws, -1).clone().requires_grad_()
    noise = torch.rand(draws, *estimator.noise_shape(len(logits)), generator=generator, dtype=logits.dtype)
    values = objective(estimator.sample(rows, noise, temperature))
    return torch.autograd.grad(values.sum(), rows)[0]


def reinforce_gradients(
    objective: Objective, logits: Tensor, baseline: float | Tensor, draws: int, generator: torch.Generator
) -> Tensor:
    """`[S, K]` independent estimates of `exact_gradient` by `reinforce`; arguments as in `pathwise_gradients`."""
    rows = logits.detach().expand(draws, -1).clone().requires_grad_()
    noise = torch.rand(draws, generator=generator, dtype=logits.dtype)
    sample = straight_through(rows, noise).detach()
    log_prob = (sample * rows.log_softmax(-1)).sum(-1)
    return -torch.autograd.grad(reinforce(log_prob, objective(sample), baseline).sum(), rows)[0]


def gradient_error(gradients: Tensor, exact: Tensor) -> GradientError:
    """Compare `[S, K]` estimates with the `[K]` exact gradient."""
    variance = gradients.var(0).sum()
    return GradientError((gradients.mean(0) - exact).norm(), variance, (variance / len(gradients)).sqrt())


def make_objective(classes: int, generator: torch.Generator) -> Objective:
    target, weight = torch.randn(2, classes, generator=generator, dtype=torch.float64)
    return lambda sample: (sample - target).square().sum(-1) + (sample @ weight).exp()


def estimates(objective: Objective, logits: Tensor, draws: int, generator: torch.Generator) -> dict[str, Tensor]:
    """`[S, K]` gradients of each row of the table."""
    mean = logits.softmax(-1) @ objective(torch.eye(len(logits), dtype=logits.dtype))
    rows = {
        "reinforce, no baseline": reinforce_gradients(objective, logits, 0.0, draws, generator),
        "reinforce, mean as baseline": reinforce_gradients(objective, logits, mean, draws, generator),
    }
    for name, estimator in ESTIMATORS.items():
        for temperature in TEMPERATURES if estimator.has_temperature else (1.0,):
            label = f"{name}, temperature {temperature:g}" if estimator.has_temperature else name
            rows[label] = pathwise_gradients(objective, logits, name, temperature, draws, generator)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=200_000)
    parser.add_argument("--classes", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(arguments.seed)
    objective = make_objective(arguments.classes, generator)
    logits = torch.randn(arguments.classes, generator=generator, dtype=torch.float64)
    exact = exact_gradient(objective, logits)
    print("| estimator | bias | standard error of the bias | standard deviation of one estimate |\n|---|---|---|---|")
    for label, gradients in estimates(objective, logits, arguments.draws, generator).items():
        error = gradient_error(gradients, exact)
        values = (error.bias, error.standard_error, error.variance.sqrt())
        print(f"| {label} | " + " | ".join(f"{(value / exact.norm()).item():.4f}" for value in values) + " |")


if __name__ == "__main__":
    main()
