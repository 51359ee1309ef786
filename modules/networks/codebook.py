"""Codebooks that follow the vectors which are nearest to their codes, by moving averages and not by gradients."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from modules.arguments.checks import check_positive, check_ranges, check_shares, check_sizes, check_widths
from modules.functional.gradient_estimators import one_hot
from modules.networks.replicas import add_over_ranks

SMALLEST = 1e-8  # squared distance of equal vectors, so that one of them can be drawn
SMOOTHING = 1e-5  # Laplace smoothing of the codes' counts, as in the authors' own code


class Codebook(nn.Module):
    """`G` groups of `K` codes, vectors of width `W` each.

    Source: van den Oord et al. 2017, "Neural Discrete Representation Learning" (https://arxiv.org/abs/1711.00937), with
    the moving averages of its appendix A.1. A codebook starts from the first batch: whatever code is not used by it is
    replaced, as are codes that fall out of use later, by random vectors of the batch. All ranks hold the same codebook.

    By default any vector of a batch may become a code, so that a frequent one can get codes of its own again and again,
    and its number changes each time. With `apart` above 0 far vectors are drawn more often, by their squared distance
    from their codes (Arthur & Vassilvitskii 2007, "k-means++"), and near ones never: once all that is different has a
    code, numbers stay, and codes that nothing needs stay out of use.

    Args:
        groups: number of groups `G`.
        size: number of codes `K` of a group.
        width: width `W` of a code.
        decay: decay of the moving averages, per update.
        dead_below: part of an equal share of the vectors below which a code is out of use.
        apart: squared distance from its code, as a part of the variance of the batch, that a vector must have to become
            a code; 0 for any.

    Attributes:
        codes: `[G, K, W]`.
        count: `[G, K]` moving average of how many vectors of a batch were nearest to each code.
        total: `[G, K, W]` moving average of the sum of these vectors.

    Raises:
        ValueError: a number is out of range.
    """

    codes: Tensor
    count: Tensor
    total: Tensor

    def __init__(
        self, groups: int, size: int, width: int, decay: float = 0.99, dead_below: float = 0.01, apart: float = 0.0
    ) -> None:
        super().__init__()
        check_sizes(groups=groups, codes=size)
        check_widths(code_width=width)
        check_positive(dead_below=dead_below)
        check_shares(decay=decay, dead_below=dead_below)
        check_ranges(("apart", apart, 0.0, 1e12))
        self.groups = groups
        self.size = size
        self.decay = decay
        self.dead_below = dead_below
        self.apart = apart
        self.register_buffer("codes", torch.randn(groups, size, width))
        self.register_buffer("count", torch.zeros(groups, size))
        self.register_buffer("total", torch.zeros(groups, size, width))

    def squared_distances(self, vectors: Tensor) -> Tensor:
        """`[..., G, W]` to `[..., G, K]`, of every vector from the codes of its group."""
        products = exact_einsum("...gw,gkw->...gk", vectors, self.codes)
        squares = vectors.square().sum(-1, keepdim=True) + self.codes.square().sum(-1)
        return squares - 2.0 * products

    def plain_squared_distances(self, vectors: Tensor) -> Tensor:
        """The definition of `squared_distances`: `|vector - code|^2`, `[..., G, W]` to `[..., G, K]`."""
        return (vectors.unsqueeze(-2) - self.codes).square().sum(-1)

    def nearest(self, vectors: Tensor) -> Tensor:
        """`[..., G, W]` to the numbers of the nearest codes, `[..., G]` int64."""
        return self.squared_distances(vectors.detach()).argmin(-1)

    def look_up(self, index: Tensor) -> Tensor:
        """Numbers of codes `[..., G]` to the codes `[..., G, W]`, which have no gradient."""
        return self.codes[torch.arange(self.groups, device=index.device), index]

    @torch.no_grad()
    def adapt(self, vectors: Tensor) -> None:
        """One step of the moving averages on the vectors `[N, G, W]` of all ranks, and new codes for those out of use.

        Args:
            vectors: those of this rank, at least one.
        """
        distances = self.squared_distances(vectors)
        used = one_hot(distances.argmin(-1), distances)
        # Counts and sums of the vectors by nearest code, of all ranks, move the averages.
        totals = exact_einsum("ngk,ngw->gkw", used, vectors)
        fresh, worth = self._candidates(vectors, distances)
        counts, totals, fresh, worth = add_over_ranks(used.sum(0), totals, fresh, worth)
        self.count.lerp_(counts, 1.0 - self.decay)
        self.total.lerp_(totals, 1.0 - self.decay)
        equal = self.count.mean(-1, keepdim=True)  # [G, 1]
        dead = (self.count < self.dead_below * equal) & (worth > 0.0)
        # A new code starts with an equal share: it has time to be found before it counts as out of use again.
        self.count.copy_(torch.where(dead, equal, self.count))
        self.total.copy_(torch.where(dead.unsqueeze(-1), equal.unsqueeze(-1) * fresh, self.total))
        # The codebook follows: sums by counts, which Laplace smoothing keeps above zero.
        everything = self.count.sum(-1, keepdim=True)
        smooth = (self.count + SMOOTHING) / (everything + self.size * SMOOTHING) * everything
        self.codes.copy_(self.total / smooth.unsqueeze(-1))

    @torch.no_grad()
    def plain_adapted(self, vectors: Tensor) -> Tensor:
        """The definition of the codes `[G, K, W]` after `adapt` in one process, where no code is out of use."""
        index = self.plain_squared_distances(vectors).argmin(-1)
        codes = torch.empty_like(self.codes)
        for group in range(self.groups):
            mine = [vectors[index[:, group] == k, group] for k in range(self.size)]
            counts = [self.decay * self.count[group, k] + (1.0 - self.decay) * len(x) for k, x in enumerate(mine)]
            for k, count in enumerate(counts):
                total = self.decay * self.total[group, k] + (1.0 - self.decay) * mine[k].sum(0)
                smooth = (count + SMOOTHING) / (sum(counts) + self.size * SMOOTHING) * sum(counts)
                codes[group, k] = total / smooth
        return codes

    def _candidates(self, vectors: Tensor, distances: Tensor) -> tuple[Tensor, Tensor]:
        """Random vectors of this rank `[G, K, W]`, and 1 for those that are far enough from their codes, `[G, K]`.

        Both are 0 for the codes that another rank provides for.
        """
        ranks, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
        groups = torch.arange(self.groups, device=vectors.device).unsqueeze(-1)
        mine = (torch.arange(self.size, device=vectors.device) % ranks == rank).to(vectors.dtype)
        if not self.apart:
            index = torch.randint(len(vectors), (self.groups, self.size), device=vectors.device)
            return vectors[index, groups] * mine.unsqueeze(-1), mine.expand(self.groups, -1)
        away = distances.amin(-1).clamp_min(SMALLEST).transpose(0, 1)  # [G, N]
        index = away.multinomial(self.size, replacement=True)
        variance = (vectors - vectors.mean(0)).square().sum(-1).mean(0).unsqueeze(-1)  # [G, 1]
        worth = away.gather(1, index) > self.apart * variance
        return vectors[index, groups] * mine.unsqueeze(-1), worth * mine


def exact_einsum(equation: str, a: Tensor, b: Tensor) -> Tensor:
    """`torch.einsum` in the operands' precision, whatever the autocast."""
    with torch.autocast(a.device.type, enabled=False):
        return torch.einsum(equation, a, b)
