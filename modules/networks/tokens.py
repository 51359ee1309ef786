"""Images as grids of tokens, and back to the classes of their pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.arguments.checks import DEEPEST, check_ranges, check_sizes, check_widths
from modules.functional.frame_classes import from_levels
from modules.networks.blocks import OutputLinear, glorot_uniform
from modules.networks.encoders import scale_image
from modules.networks.quantisers import Quantiser, VectorQuantiser

DEPTH = 256
"""Number of values of a byte."""

MakeQuantiser = Callable[[], Quantiser]
"""A `Quantiser`, or a partial of one."""


class Tokenised(NamedTuple):
    """Tokens of images, and all that a tokenizer is trained by.

    Attributes:
        tokens: `[N, P]` int64, of the `P` patches.
        raw: `[N, P, raw_width]` what the encoder gave, for `Quantiser.adapt`.
        logits: `[N, H, W, C, levels]` of the pixels' values.
        penalty: `[N]` loss of the quantiser, summed over patches.
    """

    tokens: Tensor
    raw: Tensor
    logits: Tensor
    penalty: Tensor


class ImageTokenizer(nn.Module):
    """Patches of an image, each a token of a codebook: `[N, H, W, C]` bytes to `[N, P]` tokens, and back.

    Source: Esser et al. 2021, "Taming Transformers for High-Resolution Image Synthesis"
    (https://arxiv.org/abs/2012.09841), section 3.1, and Ramesh et al. 2021, "Zero-Shot Text-to-Image Generation"
    (https://arxiv.org/abs/2102.12092), section 2.1. Others than these, the encoder begins with whole patches, the
    decoder ends with them, and what is predicted of a pixel is a distribution over its values, as in SimPLe: there is
    no critic that tells real images from made ones. Images whose sides are no multiples of a patch's are filled up at
    the bottom and the right, with what the encoder takes for 0.

    Args:
        shape: `(H, W, C)` of the images.
        quantiser: makes what makes tokens of the encoder's outputs.
        patch: height and width of a patch in pixels.
        channels: width of the encoder and the decoder.
        layers: number of residual blocks in each, which let patches see their neighbours; none make tokens of each
            patch alone.
        levels: number of values of a pixel that are told apart, evenly from 0 to 255. Images of two values, such as
            black and white ones, lose nothing with 2, and take a fraction of the time.
        image_middle: number that becomes 0 of images in [0, 1]; 0 for boards that are dark but for a few fields.

    Attributes:
        grid: rows and columns of patches.
        patches: number of patches `P`.

    Raises:
        ValueError: a number is out of range, or a patch is larger than the image.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        quantiser: MakeQuantiser = VectorQuantiser,
        patch: tuple[int, int] = (8, 8),
        channels: int = 64,
        layers: int = 2,
        levels: int = DEPTH,
        image_middle: float = 0.5,
    ) -> None:
        super().__init__()
        height, width, colours = shape
        check_sizes(patch_height=patch[0], patch_width=patch[1])
        check_widths(channels=channels)
        check_ranges(("layers", layers, 0, DEEPEST), ("levels", levels, 2, DEPTH))
        if patch[0] > height or patch[1] > width:
            raise ValueError(f"patches of {patch[0]}x{patch[1]} are larger than the image, {height}x{width}: set patch")
        self.shape = shape
        self.patch = patch
        self.levels = levels
        self.image_middle = image_middle
        self.grid = (math.ceil(height / patch[0]), math.ceil(width / patch[1]))
        self.patches = math.prod(self.grid)
        self.filling = (0, 0, 0, self.grid[1] * patch[1] - width, 0, self.grid[0] * patch[0] - height)
        self.quantiser = quantiser()
        values = math.prod(patch) * colours
        self.encoder = _network(values, channels, layers, self.quantiser.raw_width)
        self.decoder = _network(self.quantiser.width, channels, layers, values * levels)

    def noise(
        self, n: int, device: torch.device | str | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Uniform draws for `n` images, `[n, P, ...]`."""
        return self.quantiser.noise(n, self.patches, device=device, generator=generator)

    def encode(self, images: Tensor) -> Tensor:
        """`[N, H, W, C]` bytes to what the quantiser takes, `[N, P, raw_width]`, row by row of the grid."""
        x = F.pad(scale_image(images, self.image_middle), self.filling)
        patches = x.unflatten(2, (-1, self.patch[1])).unflatten(1, (-1, self.patch[0])).transpose(2, 3)
        return self.encoder(patches.flatten(3)).flatten(1, 2)

    def tokens(self, images: Tensor) -> Tensor:
        """`[N, H, W, C]` bytes to tokens `[N, P]` int64, without noise."""
        return self.quantiser.tokens(self.encode(images))

    def decode(self, vectors: Tensor) -> Tensor:
        """Vectors of the patches `[N, P, W]` to logits of the pixels' values, `[N, H, W, C, levels]` in float32."""
        height, width, colours = self.shape
        x = self.decoder(vectors.unflatten(1, self.grid)).float()
        x = x.unflatten(3, (*self.patch, colours, self.levels)).transpose(2, 3)
        return x.flatten(3, 4).flatten(1, 2)[:, :height, :width]

    def images(self, index: Tensor) -> Tensor:
        """Tokens `[N, P]` to the likeliest values of their pixels, `[N, H, W, C]` bytes."""
        return from_levels(self.decode(self.quantiser.look_up(index)).argmax(-1), self.levels)

    def forward(self, images: Tensor, noise: Tensor) -> Tokenised:
        """`[N, H, W, C]` bytes, and noise `[N, P, ...]`, to all that losses are made of."""
        raw = self.encode(images)
        vectors, index, penalty = self.quantiser.quantise(raw, noise)
        return Tokenised(index, raw, self.decode(vectors), penalty.sum(-1))


def _network(d_in: int, channels: int, layers: int, d_out: int) -> nn.Sequential:
    """`[N, rows, columns, d_in]` to `[N, rows, columns, d_out]`."""
    return nn.Sequential(
        glorot_uniform(nn.Linear(d_in, channels)),
        *(NeighbourBlock(channels) for _ in range(layers)),
        nn.SiLU(),
        OutputLinear(channels, d_out),
    )


class NeighbourBlock(nn.Module):
    """A convolution of kernel 3, and a dense layer, beside the way through: `[N, H, W, D] -> [N, H, W, D]`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.around = glorot_uniform(nn.Conv2d(channels, channels, 3, padding=1))
        self.dense = glorot_uniform(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """`[N, H, W, D] -> [N, H, W, D]`."""
        y = self.around(F.silu(self.norm(x)).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + self.dense(F.silu(y))
