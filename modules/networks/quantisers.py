"""From vectors to tokens, one of `K` each, and back: by the nearest code, or by a relaxed choice among learned vectors.

Letters: `K` number of codes, `W` width of a vector. Noise is an argument, as for `modules.world_model.latents`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from modules.arguments.checks import check_counts, check_ranges, check_widths
from modules.functional.divergences import categorical_entropy
from modules.functional.gradient_estimators import gumbel_softmax
from modules.functional.schedules import bounded_schedule
from modules.networks.codebook import Codebook, exact_einsum

COLDEST, HOTTEST = 1e-3, 1e3
"""Range of temperatures."""


class Quantised(NamedTuple):
    """Vectors as a quantiser gives them.

    Attributes:
        vectors: `[..., W]` for a decoder, with a gradient into what came in.
        tokens: `[...]` int64.
        penalty: `[...]` loss of the quantiser itself, weighted.
    """

    vectors: Tensor
    tokens: Tensor
    penalty: Tensor


class Quantiser(nn.Module):
    """Tokens of vectors.

    Attributes:
        size: number of codes `K`.
        width: width `W` of the vectors that it gives.
        raw_width: width of the network output that it takes.
    """

    size: int
    width: int
    raw_width: int

    def noise(
        self, *shape: int, device: torch.device | str | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Uniform draws that `quantise` needs for outputs of this shape, `[*shape, ...]`; empty where it needs none."""
        return torch.empty(*shape, 0, device=device)

    def quantise(self, raw: Tensor, noise: Tensor) -> Quantised:
        """`[..., raw_width]` network output to what a decoder is trained on."""
        raise NotImplementedError

    def tokens(self, raw: Tensor) -> Tensor:
        """`[..., raw_width]` network output to tokens `[...]` int64, without noise."""
        raise NotImplementedError

    def look_up(self, index: Tensor) -> Tensor:
        """Tokens `[...]` to vectors `[..., W]`."""
        raise NotImplementedError

    def adapt(self, raw: Tensor) -> None:
        """After an update: learn what no gradient teaches, from `[..., raw_width]`; nothing unless a kind says so."""

    def advance(self, updates: int) -> None:
        """Set what changes over time to its value after so many updates; nothing unless a kind says so."""


class VectorQuantiser(Quantiser):
    """The nearest code of a codebook that follows by moving averages, with the gradient of the vector itself.

    Source: van den Oord et al. 2017, "Neural Discrete Representation Learning" (https://arxiv.org/abs/1711.00937), Eq.
    1 to 3, with the moving averages of its appendix A.1 in the place of a loss of the codes; unused codes restart.

    Args:
        codes: number of codes `K`.
        code_width: width `W` of a code.
        commitment: weight of `|vector - stop_gradient(code)|^2`, which keeps vectors at their codes; `beta` of Eq. 3.
        decay: decay of the moving averages, per update.
        dead_below: part of an equal share of the vectors below which a code is out of use.
        apart: squared distance from its code, as a part of the batch's variance, below which a vector does not become
            the code in the place of one that is out of use; without, tokens of what is known change their numbers.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        codes: int = 128,
        code_width: int = 16,
        commitment: float = 0.25,
        decay: float = 0.99,
        dead_below: float = 0.01,
        apart: float = 0.1,
    ) -> None:
        super().__init__()
        check_ranges(("commitment", commitment, 0.0, 1e12))
        self.size = codes
        self.width = self.raw_width = code_width
        self.commitment = commitment
        self.codebook = Codebook(1, codes, code_width, decay, dead_below, apart)

    def quantise(self, raw: Tensor, noise: Tensor) -> Quantised:
        """The nearest codes; the penalty is that of commitment."""
        vectors = raw.float()
        index = self.tokens(vectors)
        nearest = self.look_up(index)
        penalty = self.commitment * (vectors - nearest).square().sum(-1)
        return Quantised(nearest + (vectors - vectors.detach()), index, penalty)

    def tokens(self, raw: Tensor) -> Tensor:
        """Numbers of the nearest codes."""
        return self.codebook.nearest(raw.float().unsqueeze(-2)).squeeze(-1)

    def look_up(self, index: Tensor) -> Tensor:
        """Codes by their numbers."""
        return self.codebook.look_up(index.unsqueeze(-1)).squeeze(-2)

    def adapt(self, raw: Tensor) -> None:
        """One step of the codebook on the vectors of all ranks, see `Codebook.adapt`."""
        self.codebook.adapt(raw.detach().float().reshape(-1, 1, self.width))


class GumbelQuantiser(Quantiser):
    """A relaxed sample of `K` classes, and the mean of their learned vectors under it; tokens are the likeliest ones.

    Source: Ramesh et al. 2021, "Zero-Shot Text-to-Image Generation" (https://arxiv.org/abs/2102.12092), section 2.1 and
    appendix A.2: the temperature falls along a cosine, to 1/16, which they found low enough for relaxed and hard tokens
    to be decoded alike. They raise the weight of the divergence to 6.6 over the first 5000 updates, with both terms
    divided by the number of an image's entries; here both are sums in nats, and the weight is a schedule too.

    Args:
        codes: number of codes `K`.
        code_width: width `W` of a vector.
        temperature: temperature, a number or a schedule over updates; see `parse_schedule`.
        divergence: weight of the divergence from equally likely codes, in nats; a number or a schedule. 1 would be that
            of an evidence lower bound, which spends no nats on pixels that a decoder can as well leave uncertain.

    Raises:
        ValueError: a number is out of range, or a text is no schedule.
    """

    temperature: Tensor
    weight: Tensor

    def __init__(
        self,
        codes: int = 128,
        code_width: int = 16,
        temperature: float | str = "cosine(1, 0.0625, 2000)",
        divergence: float | str = 0.01,
    ) -> None:
        super().__init__()
        check_counts(2, codes=codes)
        check_widths(codes=codes, code_width=code_width)
        self.size = self.raw_width = codes
        self.width = code_width
        self.temperatures = bounded_schedule("temperature", temperature, COLDEST, HOTTEST)
        self.weights = bounded_schedule("divergence", divergence, 0.0, 1e12)
        self.vectors = nn.Parameter(torch.randn(codes, code_width))
        self.register_buffer("temperature", torch.tensor(self.temperatures(0)))
        self.register_buffer("weight", torch.tensor(self.weights(0)))

    def noise(
        self, *shape: int, device: torch.device | str | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Uniform draws, `[*shape, K]`."""
        return torch.rand(*shape, self.size, device=device, generator=generator)

    def quantise(self, raw: Tensor, noise: Tensor) -> Quantised:
        """Relaxed samples; the penalty is the divergence from equally likely codes, `log K - entropy`."""
        logits = raw.float()
        relaxed = gumbel_softmax(logits, noise, self.temperature)
        penalty = self.weight * (math.log(self.size) - categorical_entropy(logits.unsqueeze(-2)))
        return Quantised(exact_einsum("...k,kw->...w", relaxed, self.vectors), self.tokens(logits), penalty)

    def tokens(self, raw: Tensor) -> Tensor:
        """The likeliest codes."""
        return raw.argmax(-1)

    def look_up(self, index: Tensor) -> Tensor:
        """Vectors by their numbers."""
        return self.vectors[index]

    def advance(self, updates: int) -> None:
        """Set temperature and weight."""
        for value, schedule in ((self.temperature, self.temperatures), (self.weight, self.weights)):
            if not schedule.is_constant:
                value.fill_(schedule(updates))


def perplexity(index: Tensor, size: int) -> Tensor:
    """Number of codes that tokens `[...]` of `K = size` codes use: the exponential of the entropy of how often.

    1 where all tokens are the same, `K` where all codes are used alike. Source: van den Oord et al. 2017, whose public
    code reports it of each batch.
    """
    shares = torch.bincount(index.flatten(), minlength=size) / index.numel()
    return torch.special.entr(shares).sum().exp()
