"""A causal transformer whose every position looks back over one window, whole sequences at once or piece by piece."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.arguments.checks import DEEPEST, check_ranges, check_sizes, check_widths
from modules.networks.blocks import glorot_uniform

BASE = 10_000.0
"""Longest wavelength of the positions, in radians of one step; as in the paper."""


class Cache(NamedTuple):
    """Keys and values of the positions that the next one can look back to, `m` of them.

    Attributes:
        keys: `[layers, B, heads, m, d]`, turned by their positions.
        values: `[layers, B, heads, m, d]`.
        group: `[B, m]` int64 numbers as `CausalTransformer.extend` was given, or None where all are of one group.
        position: position of what comes next.
    """

    keys: Tensor
    values: Tensor
    group: Tensor | None
    position: int


class CausalTransformer(nn.Module):
    """Blocks of attention and a dense layer, each behind a norm and beside the way through: `[B, L, D] -> [B, L, D]`.

    Source: Esser et al. 2021, "Taming Transformers for High-Resolution Image Synthesis"
    (https://arxiv.org/abs/2012.09841), section 3.2, whose attention slides over what is too long to be seen at once.
    Here it slides by one position at a time in every layer: a position attends to itself and the `window - 1` before
    it, in whole sequences as in pieces of them, so that a cache of that many gives the same numbers for ever. Through
    all layers it learns of up to `layers * (window - 1)` positions back. Positions turn queries and keys (Su et al.
    2021, "RoFormer", https://arxiv.org/abs/2104.09864, Eq. 34): only distances matter, so there is no last one.

    Args:
        window: number of positions that one attends to, itself included.
        width: width `D` of a position.
        layers: number of blocks.
        heads: number of heads of attention, of an even width each.

    Raises:
        ValueError: a number is out of range, or the heads do not divide the width.
    """

    def __init__(self, window: int, *, width: int = 64, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        check_widths(width=width)
        check_sizes(window=window, heads=heads)
        check_ranges(("layers", layers, 1, DEEPEST))
        if width % (2 * heads):
            raise ValueError(f"width must be a multiple of twice the heads, got {width} with {heads} heads")
        self.window = window
        self.width = width
        self.heads = heads
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, group: Tensor | None = None) -> Tensor:
        """Whole sequences.

        Args:
            x: `[B, L, D]`.
            group: `[B, L]` int64; positions see those of their own group alone. None for one group.
        """
        return self.extend(x, self.empty(x), group)[0]

    def empty(self, like: Tensor) -> Cache:
        """Nothing before the first position, for a batch and of the kind of `[B, L, D]`."""
        shape = (len(self.blocks), len(like), self.heads, 0, like.shape[-1] // self.heads)
        return Cache(like.new_zeros(shape), like.new_zeros(shape), None, 0)

    def extend(self, x: Tensor, cache: Cache, group: Tensor | None = None) -> tuple[Tensor, Cache]:
        """Positions that follow those of a cache.

        Args:
            x: `[B, n, D]`.
            cache: what `empty`, or this function, gave; it stays as it is.
            group: `[B, n]` as of `forward`; given from the first position on, or never.

        Returns:
            `[B, n, D]`, and the cache behind them.
        """
        n, known = x.shape[1], cache.keys.shape[3]
        groups = None
        if group is not None:
            groups = group if cache.group is None else torch.cat([cache.group, group], 1)
        mask = self._mask(n, known, groups, x.device)
        turns = _turns(cache.position, n, x.shape[-1] // self.heads, x)
        keys, values = [], []
        for block, key, value in zip(self.blocks, cache.keys, cache.values, strict=True):
            x, key, value = block(x, key, value, turns, mask)
            keys.append(key[:, :, self._oldest(known + n) :])
            values.append(value[:, :, self._oldest(known + n) :])
        kept = None if groups is None else groups[:, self._oldest(known + n) :]
        return self.norm(x), Cache(torch.stack(keys), torch.stack(values), kept, cache.position + n)

    def _oldest(self, known: int) -> int:
        """Index of the first of so many positions that the next one still attends to."""
        return max(known - self.window + 1, 0)

    def _mask(self, n: int, known: int, group: Tensor | None, device: torch.device) -> Tensor | None:
        """`[B or 1, 1, n, known + n]` bool, who attends to whom; None for all that came before."""
        if group is None and known == 0 and n <= self.window:
            return None
        there = torch.arange(known + n, device=device)
        distance = there[known:].unsqueeze(1) - there
        mask = ((distance >= 0) & (distance < self.window)).unsqueeze(0)
        if group is not None:
            mask = mask & (group[:, known:].unsqueeze(2) == group.unsqueeze(1))
        return mask.unsqueeze(1)


class Block(nn.Module):
    """One block of the transformer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before = nn.LayerNorm(width)
        self.input = glorot_uniform(nn.Linear(width, 3 * width))
        self.output = glorot_uniform(nn.Linear(width, width))
        self.dense = nn.Sequential(
            nn.LayerNorm(width),
            glorot_uniform(nn.Linear(width, 4 * width)),
            nn.GELU(),
            glorot_uniform(nn.Linear(4 * width, width)),
        )

    def forward(
        self, x: Tensor, key: Tensor, value: Tensor, turns: tuple[Tensor, Tensor], mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Positions `[B, n, D]` with keys and values `[B, heads, m, d]` before them.

        Returns:
            `[B, n, D]`, and keys and values `[B, heads, m + n, d]`.
        """
        query, new, content = self.input(self.before(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        key = torch.cat([key, _turned(new, turns)], 2)
        value = torch.cat([value, content], 2)
        seen = F.scaled_dot_product_attention(_turned(query, turns), key, value, mask, is_causal=mask is None)
        x = x + self.output(seen.transpose(1, 2).flatten(2))
        return x + self.dense(x), key, value


def _turns(start: int, n: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines `[n, width / 2]` of the angles of positions from `start` on."""
    # In doubles: the angle of a late position has no digits behind the point left in less.
    frequency = BASE ** (-torch.arange(0, width, 2, device=like.device, dtype=torch.float64) / width)
    angle = torch.arange(start, start + n, device=like.device).unsqueeze(1) * frequency
    return angle.cos().to(like.dtype), angle.sin().to(like.dtype)


def _turned(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """`[B, heads, n, d]`, each pair of one entry of the first half and one of the second turned by its angle."""
    (first, second), (cosine, sine) = x.chunk(2, -1), turns
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], -1)
