"""A stochastic state of vectors from a learned codebook."""

from __future__ import annotations

from torch import Tensor

from modules.arguments.checks import check_positive, check_ranges
from modules.functional.gradient_estimators import EstimatorName
from modules.networks.codebook import Codebook, exact_einsum
from modules.world_model.latents import DiscreteLatent

SMALLEST = 1e-8  # variance that equal codes are taken to have


class VectorQuantisedLatent(DiscreteLatent):
    """`G` vectors, each the nearest of the `K` codes of its group's codebook.

    Source: van den Oord et al. 2017, "Neural Discrete Representation Learning" (https://arxiv.org/abs/1711.00937), with
    a codebook of moving averages, see `Codebook`. The posterior's output is the vectors themselves, `[..., G * W]`, and
    a sample is the nearest codes; the prior's is logits of the codes, `[..., G * K]`. Both are compared through the
    soft assignment of the posterior's vectors, `softmax(-|vector - code|^2 / (spread v))`, with the mean squared
    distance `v` of the group's codes from their centre. Without `v`, smaller vectors would lower the divergence: the
    network would shrink them until all assignments are even, and the prior would learn nothing.

    Args:
        groups: number of groups `G`.
        codes: number of codes `K` of a group.
        code_width: width `W` of a code.
        estimator: estimator by which gradients pass through samples of the prior.
        temperature: temperature of the estimator, as in `CategoricalLatent`.
        spread: squared distance over which an assignment blurs, as a part of `v`; small ones are nearly hard.
        commitment: weight of `|vector - stop_gradient(code)|^2`, which keeps the vectors at their codes.
        decay: decay of the codebook's moving averages, per update.
        dead_below: part of an equal share of the vectors below which a code is out of use.

    Raises:
        ValueError: a number is out of range, the estimator is unknown, or the temperature would be ignored.
    """

    def __init__(
        self,
        groups: int = 32,
        codes: int = 32,
        code_width: int = 16,
        estimator: EstimatorName = "straight_through",
        temperature: float | str = 1.0,
        spread: float = 0.2,
        commitment: float = 0.25,
        decay: float = 0.99,
        dead_below: float = 0.01,
    ) -> None:
        super().__init__(groups, codes, estimator, temperature)
        check_positive(spread=spread)
        check_ranges(("commitment", commitment, 0.0, 1e12))
        self.code_width = code_width
        self.spread = spread
        self.commitment = commitment
        self.width = self.posterior_width = groups * code_width
        self.prior_width = groups * codes
        self.codebook = Codebook(groups, codes, code_width, decay, dead_below)

    def vectors(self, posterior: Tensor) -> Tensor:
        """`[..., G * W]` network output to `[..., G, W]`."""
        return posterior.float().unflatten(-1, (self.groups, self.code_width))

    def nearest(self, vectors: Tensor) -> Tensor:
        """`[..., G, W]` to the nearest codes, without a gradient."""
        return self.codebook.look_up(self.codebook.nearest(vectors))

    def sample(self, posterior: Tensor, noise: Tensor) -> Tensor:
        """`[..., G * W]` to the nearest codes `[..., G * W]`, with the gradient of the vectors themselves."""
        vectors = self.vectors(posterior)
        return (self.nearest(vectors) + (vectors - vectors.detach())).flatten(-2)

    def imagine(self, prior: Tensor, noise: Tensor) -> Tensor:
        """`[..., G * K]` to sampled codes `[..., G * W]`, with the estimator's gradient."""
        chosen = self.choose(self.prior_logits(prior), noise)
        return exact_einsum("...gk,gkw->...gw", chosen, self.codebook.codes).flatten(-2)

    def posterior_logits(self, posterior: Tensor) -> Tensor:
        """`[..., G * W]` to the soft assignment's `[..., G, K]`."""
        codes = self.codebook.codes
        variance = (codes - codes.mean(1, keepdim=True)).square().sum(-1).mean(-1, keepdim=True)  # [G, 1]
        distances = self.codebook.squared_distances(self.vectors(posterior))
        return -distances / (self.spread * variance.clamp_min(SMALLEST))

    def prior_logits(self, prior: Tensor) -> Tensor:
        """`[..., G * K]` to `[..., G, K]`."""
        return prior.float().unflatten(-1, (self.groups, self.classes))

    def auxiliary_losses(self, posterior: Tensor) -> tuple[dict[str, Tensor], dict[str, float]]:
        """`commitment`, the squared distance of the vectors from their codes, summed over groups."""
        vectors = self.vectors(posterior)
        distance = (vectors - self.nearest(vectors)).square().sum((-2, -1))
        return {"commitment": distance}, {"commitment": self.commitment}

    def adapt(self, posterior: Tensor) -> None:
        """One step of the codebook's moving averages on the vectors of all ranks, see `Codebook.adapt`."""
        self.codebook.adapt(self.vectors(posterior).detach().flatten(0, -3))
