"""A linear layer whose outputs each see one block of the inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modules.arguments.checks import check_sizes
from modules.networks.blocks import truncated_normal_


class BlockLinear(nn.Module):
    """`G` linear layers side by side, the blocks of a block-diagonal weight: `[..., d_in] -> [..., d_out]`.

    Block `g` of the output sees block `g` of the input alone, so that the layer has a `G`th of the weights. Their first
    values are as small as those of a dense layer of as many inputs (github.com/danijar/dreamerv3).

    Attributes:
        weight: `[G, d_out / G, d_in / G]`.
        bias: `[d_out]`.

    Args:
        d_in: width of the input.
        d_out: width of the output.
        blocks: number of blocks `G`.

    Raises:
        ValueError: the blocks do not divide a width.
    """

    def __init__(self, d_in: int, d_out: int, blocks: int) -> None:
        super().__init__()
        check_sizes(d_in=d_in, d_out=d_out, blocks=blocks)
        for width in (d_in, d_out):
            if width % blocks:
                raise ValueError(f"blocks must divide both widths of the layer, got {blocks} and a width of {width}")
        self.blocks = blocks
        self.weight = nn.Parameter(torch.empty(blocks, d_out // blocks, d_in // blocks))
        self.bias = nn.Parameter(torch.zeros(d_out))
        truncated_normal_(self.weight, d_in)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., d_in] -> [..., d_out]`."""
        parts = cut(x.flatten(0, -2), self.blocks) @ self.weight.mT
        return joined(parts).unflatten(0, x.shape[:-1]) + self.bias


def cut(x: Tensor, blocks: int) -> Tensor:
    """`[B, D]` to its blocks `[G, B, D / G]`, without a copy."""
    return x.unflatten(-1, (blocks, -1)).transpose(0, 1)


def joined(x: Tensor) -> Tensor:
    """Inverse of `cut`: `[G, B, D / G]` to `[B, D]`."""
    return x.transpose(0, 1).flatten(1)
