"""The part of the next frame that nobody can foresee, as bits that a network writes while it sees that frame."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.functional.bits import clean_bits, noisy_bits
from modules.networks.bit_prior import BitPrior

LEAST_DEVIATION = 1e-3
"""Of numbers that a network writes, added to what they are divided by."""


class FrameLatent(nn.Module):
    """Bits of what a frame has beyond the frames and the action before it, and a prior that draws them.

    While the model learns, a network that also sees the next frame writes the bits, with noise, and the prior learns to
    say them from the features at the bottom of the U-net. Later the prior draws them. The bits are of patterns of the
    size of a few pixels, wherever these are in the frames: so they soon say in which way something has moved. Bits of
    the whole picture, as the paper's, first say where all things are, which the frames before tell as well; and so do
    bits of patterns that are told their place: the prior then has to know where things are to draw bits that fit.

    Source: Kaiser et al. 2020 (https://arxiv.org/abs/1903.00374), section 4, as in tensor2tensor's
    `next_frame_basic_stochastic_discrete`, where bits grow out of real numbers by a schedule of their own; here they do
    so as the model turns to its own predictions.

    Args:
        channels: channels of all frames that are known, and of the next one, together.
        bottom: channels, height and width of the features at the bottom of the U-net.
        hidden: channels of the network that writes.
        bits: number of bits.
        group: bits that the prior draws at once.
        prior_units: width of the prior.
        noise: deviation of the noise on what is written.
        flips: share of the bits that are turned over while it learns.
        mixed: share of the bits that the prior draws while it learns, once frames of its own are looked at in all
            places.
        skipped: share of the rows that learn without a latent, so that frames and action are read, too.
    """

    def __init__(
        self,
        channels: int,
        bottom: tuple[int, int, int],
        hidden: int,
        bits: int,
        group: int,
        prior_units: int,
        noise: float,
        flips: float,
        mixed: float,
        skipped: float,
    ) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, hidden, 3, padding=1)
        self.patterns = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.write = nn.Linear(hidden, bits)
        self.prior = BitPrior(math.prod(bottom), bits, group, prior_units)
        self.noise = noise
        self.flips = flips
        self.mixed = mixed
        self.skipped = skipped

    def written(self, image: Tensor) -> Tensor:
        """Numbers `[B, n]` whose signs are the bits, of frames `[B, C, H, W]`, the next one last.

        They are standardised over the batch: otherwise most bits soon have one sign in all rows, and say nothing.
        """
        patterns = self.patterns(F.elu(self.embed(image))).amax((-2, -1))
        numbers = self.write(patterns)
        return (numbers - numbers.mean(0)) / (numbers.std(0, correction=0) + LEAST_DEVIATION)

    def learned(self, bottom: Tensor, image: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Bits `[B, n]` as they are read while the model learns, and the loss of the prior, `[B]`.

        Rows that learn without a latent have zeros in their place.

        Args:
            bottom: `[B, C', h, w]`.
            image: `[B, C, H, W]` frames, the next one last.
            own: scalar in [0, 1], how far the model learns from its own predictions.
        """
        x = self.written(image)
        uniform = torch.rand(2, *x.shape, device=x.device)
        bits = noisy_bits(x, self.noise * torch.randn_like(x), uniform, self.flips, own)
        features = bottom.flatten(1)
        loss = self.prior.loss(features, clean_bits(x.detach()))
        # Some bits are the prior's instead, with the gradient of what was written.
        with torch.no_grad():
            drawn = self.prior.sample(features, torch.rand(len(x), self.prior.groups, device=x.device))
        mine = torch.rand_like(x) < self.mixed * own
        bits = torch.where(mine, bits + (drawn - bits).detach(), bits)
        skip = torch.rand(len(x), 1, device=x.device) < self.skipped
        return torch.where(skip, 0.0, bits), loss

    def sampled(self, bottom: Tensor, noise: Tensor) -> Tensor:
        """Bits `[B, n]` that the prior draws by `noise`, `[B, G]`."""
        return self.prior.sample(bottom.flatten(1), noise)


def bottom_size(size: tuple[int, int], downs: int) -> tuple[int, int]:
    """Height and width that are left of an image after so many steps down."""
    height, width = size
    for _ in range(downs):
        height, width = (height + 1) // 2, (width + 1) // 2
    return height, width
