"""A stochastic state of vectors from a learned codebook."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from modules.arguments.checks import check_positive, check_ranges, check_shares
from modules.functional.gradient_estimators import EstimatorName, one_hot
from modules.networks.replicas import add_over_ranks
from modules.world_model.latents import DiscreteLatent

SMOOTHING = 1e-5  # Laplace smoothing of the codes' counts, as in the authors' own code
SMALLEST = 1e-8  # variance that equal codes are taken to have


class VectorQuantisedLatent(DiscreteLatent):
    """`G` vectors, each the nearest of the `K` codes of its group's codebook.

    Source: van den Oord et al. 2017, "Neural Discrete Representation Learning" (https://arxiv.org/abs/1711.00937), with
    the moving-average codebook of its appendix A.1. The posterior's output is the vectors themselves, `[..., G * W]`,
    and a sample is the nearest codes; the prior's is logits of the codes, `[..., G * K]`. Both are compared through the
    soft assignment of the posterior's vectors, `softmax(-|vector - code|^2 / (spread v))`, with the mean squared
    distance `v` of the group's codes from their centre. Without `v`, smaller vectors would lower the divergence: the
    network would shrink them until all assignments are even, and the prior would learn nothing.

    A codebook starts from the first batch: whatever code is not used by it is replaced, as are codes that fall out of
    use later, by random vectors of the batch. All ranks hold the same codebook.

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

    codebook: Tensor
    count: Tensor
    total: Tensor

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
        check_positive(code_width=code_width, spread=spread, dead_below=dead_below)
        check_shares(decay=decay, dead_below=dead_below)
        check_ranges(("commitment", commitment, 0.0, 1e12))
        self.code_width = code_width
        self.spread = spread
        self.commitment = commitment
        self.decay = decay
        self.dead_below = dead_below
        self.width = self.posterior_width = groups * code_width
        self.prior_width = groups * codes
        self.register_buffer("codebook", torch.randn(groups, codes, code_width))
        self.register_buffer("count", torch.zeros(groups, codes))
        self.register_buffer("total", torch.zeros(groups, codes, code_width))

    def vectors(self, posterior: Tensor) -> Tensor:
        """`[..., G * W]` network output to `[..., G, W]`."""
        return posterior.float().unflatten(-1, (self.groups, self.code_width))

    def squared_distances(self, vectors: Tensor) -> Tensor:
        """`[..., G, W]` to `[..., G, K]`, of every vector from the codes of its group."""
        products = _einsum("...gw,gkw->...gk", vectors, self.codebook)
        squares = vectors.square().sum(-1, keepdim=True) + self.codebook.square().sum(-1)
        return squares - 2.0 * products

    def plain_squared_distances(self, vectors: Tensor) -> Tensor:
        """The definition of `squared_distances`: `|vector - code|^2`, `[..., G, W]` to `[..., G, K]`."""
        return (vectors.unsqueeze(-2) - self.codebook).square().sum(-1)

    def nearest(self, vectors: Tensor) -> Tensor:
        """`[..., G, W]` to the nearest codes, without a gradient."""
        index = self.squared_distances(vectors.detach()).argmin(-1)
        groups = torch.arange(self.groups, device=index.device)
        return self.codebook[groups, index]

    def sample(self, posterior: Tensor, noise: Tensor) -> Tensor:
        """`[..., G * W]` to the nearest codes `[..., G * W]`, with the gradient of the vectors themselves."""
        vectors = self.vectors(posterior)
        return (self.nearest(vectors) + (vectors - vectors.detach())).flatten(-2)

    def imagine(self, prior: Tensor, noise: Tensor) -> Tensor:
        """`[..., G * K]` to sampled codes `[..., G * W]`, with the estimator's gradient."""
        chosen = self.choose(self.prior_logits(prior), noise)
        return _einsum("...gk,gkw->...gw", chosen, self.codebook).flatten(-2)

    def posterior_logits(self, posterior: Tensor) -> Tensor:
        """`[..., G * W]` to the soft assignment's `[..., G, K]`."""
        centre = self.codebook.mean(1, keepdim=True)
        variance = (self.codebook - centre).square().sum(-1).mean(-1, keepdim=True)  # [G, 1]
        return -self.squared_distances(self.vectors(posterior)) / (self.spread * variance.clamp_min(SMALLEST))

    def prior_logits(self, prior: Tensor) -> Tensor:
        """`[..., G * K]` to `[..., G, K]`."""
        return prior.float().unflatten(-1, (self.groups, self.classes))

    def auxiliary_losses(self, posterior: Tensor) -> tuple[dict[str, Tensor], dict[str, float]]:
        """`commitment`, the squared distance of the vectors from their codes, summed over groups."""
        vectors = self.vectors(posterior)
        distance = (vectors - self.nearest(vectors)).square().sum((-2, -1))
        return {"commitment": distance}, {"commitment": self.commitment}

    @torch.no_grad()
    def adapt(self, posterior: Tensor) -> None:
        """One step of the moving averages on the vectors of all ranks, and new codes for those out of use."""
        vectors = self.vectors(posterior).flatten(0, -3)  # [N, G, W]
        distances = self.squared_distances(vectors)
        used = one_hot(distances.argmin(-1), distances)
        # Counts and sums of the vectors by nearest code, of all ranks, move the averages.
        totals = _einsum("ngk,ngw->gkw", used, vectors)
        counts, totals, fresh = add_over_ranks(used.sum(0), totals, self._candidates(vectors))
        self.count.lerp_(counts, 1.0 - self.decay)
        self.total.lerp_(totals, 1.0 - self.decay)
        equal = self.count.mean(-1, keepdim=True)  # [G, 1]
        dead = self.count < self.dead_below * equal
        # A new code starts with an equal share: it has time to be found before it counts as out of use again.
        self.count.copy_(torch.where(dead, equal, self.count))
        self.total.copy_(torch.where(dead.unsqueeze(-1), equal.unsqueeze(-1) * fresh, self.total))
        # The codebook follows: sums by counts, which Laplace smoothing keeps above zero.
        everything = self.count.sum(-1, keepdim=True)
        smooth = (self.count + SMOOTHING) / (everything + self.classes * SMOOTHING) * everything
        self.codebook.copy_(self.total / smooth.unsqueeze(-1))

    @torch.no_grad()
    def plain_adapted(self, posterior: Tensor) -> Tensor:
        """The definition of the codebook `[G, K, W]` after `adapt` in one process, where no code is out of use."""
        vectors = self.vectors(posterior).flatten(0, -3)
        index = self.plain_squared_distances(vectors).argmin(-1)
        codebook = torch.empty_like(self.codebook)
        for group in range(self.groups):
            mine = [vectors[index[:, group] == k, group] for k in range(self.classes)]
            counts = [self.decay * self.count[group, k] + (1.0 - self.decay) * len(x) for k, x in enumerate(mine)]
            for k, count in enumerate(counts):
                total = self.decay * self.total[group, k] + (1.0 - self.decay) * mine[k].sum(0)
                smooth = (count + SMOOTHING) / (sum(counts) + self.classes * SMOOTHING) * sum(counts)
                codebook[group, k] = total / smooth
        return codebook

    def _candidates(self, vectors: Tensor) -> Tensor:
        """`[G, K, W]` random vectors of this rank; zeros for the codes that another rank provides for."""
        ranks, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
        index = torch.randint(len(vectors), (self.groups, self.classes), device=vectors.device)
        groups = torch.arange(self.groups, device=vectors.device).unsqueeze(-1)
        mine = torch.arange(self.classes, device=vectors.device) % ranks == rank
        return vectors[index, groups] * mine.unsqueeze(-1)


def _einsum(equation: str, a: Tensor, b: Tensor) -> Tensor:
    """`torch.einsum` in the operands' precision, whatever the autocast."""
    with torch.autocast(a.device.type, enabled=False):
        return torch.einsum(equation, a, b)
