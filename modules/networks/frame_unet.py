"""Convolutions down to a few places and up again, into which an action and a latent are injected on the way."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.networks.blocks import make_norm
from modules.networks.encoders import norm_channels


class Painted(NamedTuple):
    """Features of a frame that is to come.

    Attributes:
        places: `[B, C, H, W]` of each of its pixels.
        pooled: `[B, D]` of all of it: means over the places of the narrowest and of the last layer.
    """

    places: Tensor
    pooled: Tensor


class _Injection(nn.Module):
    """`x sigmoid(W_m v) + W_a v`: a vector `[B, D]` into all places of `[B, C, H, W]`."""

    def __init__(self, d_in: int, channels: int) -> None:
        super().__init__()
        self.factor = nn.Linear(d_in, channels)
        self.shift = nn.Linear(d_in, channels)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        """`[B, C, H, W]`."""
        factor, shift = torch.sigmoid(self.factor(vector)), self.shift(vector)
        return x * factor[..., None, None] + shift[..., None, None]


class _Down(nn.Module):
    """Half as many places to either side: a convolution of kernel 4 and stride 2, and a norm of the channels."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(d_in, d_out, 4, stride=2, padding=1)
        self.norm = make_norm("layer", d_out)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W] -> [B, C', ceil(H / 2), ceil(W / 2)]`."""
        even = F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2))
        return norm_channels(self.norm, F.elu(self.convolution(even)))


class _Up(nn.Module):
    """Twice as many places to either side, added to what was there on the way down, and a norm of the channels."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.convolution = nn.ConvTranspose2d(d_in, d_out, 4, stride=2, padding=1)
        self.norm = make_norm("layer", d_out)

    def forward(self, x: Tensor, beside: Tensor) -> Tensor:
        """`[B, C, h, w]` and `[B, C', H, W]` of the way down to `[B, C', H, W]`."""
        height, width = beside.shape[-2:]
        return norm_channels(self.norm, F.elu(self.convolution(x))[..., :height, :width] + beside)


class _Residual(nn.Module):
    """`norm(x + convolution(x))` with a kernel of 3, of `[B, C, H, W]`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = make_norm("layer", channels)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]`."""
        return norm_channels(self.norm, x + F.elu(self.convolution(x)))


def located(image: Tensor) -> Tensor:
    """An image with two more channels, the row and the column of each place, from -1 to 1: `[B, C + 2, H, W]`."""
    height, width = image.shape[-2:]
    row = torch.linspace(-1.0, 1.0, height, device=image.device).view(-1, 1).expand(height, width)
    column = torch.linspace(-1.0, 1.0, width, device=image.device).expand(height, width)
    places = torch.stack([row, column]).to(image.dtype).expand(len(image), 2, height, width)
    return torch.cat([image, places], 1)


class FrameUNet(nn.Module):
    """The paper's U-net on frames and an action, up to the features of each pixel of the next frame.

    Source: Kaiser et al. 2020 (https://arxiv.org/abs/1903.00374), section 4 and figure 2, as in tensor2tensor's
    `next_frame_basic_deterministic`. Places are told by two channels of coordinates at the start, in place of sines at
    every step. Each pixel sees its neighbours in the first layer and in the last one, too, with which objects of a
    pixel that move by one are learned in about half as many updates; and the latent is told wherever the action is,
    not at the bottom alone.

    Args:
        channels: channels of all frames together.
        d_action: width of an action.
        d_latent: width of a latent, 0 for none.
        hidden: channels of the first layer.
        downs: steps down, and up again.
        doublings: steps down at which the channels double.
        dropout: share of the features that are dropped before every step, while it learns.

    Attributes:
        narrow: channels at the bottom.
        width: width `D` of what is pooled.
    """

    def __init__(
        self, channels: int, d_action: int, d_latent: int, hidden: int, downs: int, doublings: int, dropout: float
    ) -> None:
        super().__init__()
        widths = [hidden * 2 ** min(step, doublings) for step in range(downs + 1)]
        self.narrow = widths[-1]
        self.width = widths[-1] + hidden
        self.dropout = dropout
        self.embed = nn.Conv2d(channels + 2, hidden, 3, padding=1)  # two say where each place is
        self.downs = nn.ModuleList(_Down(*pair) for pair in pairwise(widths))
        self.action = _Injection(d_action, self.narrow)
        self.middle = nn.ModuleList(_Residual(self.narrow) for _ in range(2))
        upwards = widths[::-1]
        self.told = nn.ModuleList(_Injection(d_action + d_latent, width) for width in (self.narrow, *upwards))
        self.ups = nn.ModuleList(_Up(*pair) for pair in pairwise(upwards))
        self.finish = _Residual(hidden)

    def forward(self, image: Tensor, action: Tensor, latent: Callable[[Tensor], Tensor], learning: bool) -> Painted:
        """Features of the next frame.

        Args:
            image: `[B, C, H, W]` frames, the channels of all of them side by side.
            action: `[B, A]`.
            latent: gives the latent, `[B, D]`, for the features at the bottom, `[B, C', h, w]`.
            learning: whether features are dropped by chance.
        """
        x = self.embed(located(image))
        beside = []
        for down in self.downs:
            beside.append(x)
            x = down(F.dropout(x, self.dropout, learning))
        # The bottom: few places, and what each is to know of the action and the latent.
        x = self.action(x, action)
        told = torch.cat([action, latent(x)], -1)
        first, *others, last = self.told
        x = first(x, told)
        for residual in self.middle:
            x = residual(F.dropout(x, self.dropout, learning))
        middle = x.mean((-2, -1))
        for inject, up, skipped in zip(others, self.ups, reversed(beside), strict=True):
            x = up(inject(F.dropout(x, self.dropout, learning), told), skipped)
        x = self.finish(last(x, told))
        return Painted(x, torch.cat([middle, x.mean((-2, -1))], -1))
