"""Residual stacks in which any block may be a mixture of experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from modules.arguments.checks import DEEPEST, check_choice, check_ranges
from modules.networks.blocks import MLP

Placement = Literal["none", "first", "last", "every_other", "all"]


def mixture_positions(depth: int, placement: Placement) -> tuple[int, ...]:
    """Indices of the blocks that are mixtures, in order; `every_other` counts back from the last block.

    Raises:
        ValueError: there is no block, or no such placement.
    """
    check_ranges(("depth", depth, 1, DEEPEST))
    positions = {
        "none": range(0),
        "first": range(1),
        "last": range(depth - 1, depth),
        "every_other": range((depth - 1) % 2, depth, 2),
        "all": range(depth),
    }
    check_choice("placement", placement, positions)
    return tuple(positions[placement])


class ResidualStack(nn.Module):
    """Pre-norm residual blocks `x + f(LayerNorm(x))` between two linear layers: `[..., d_in] -> [..., d_out]`.

    Source: He et al. 2016, "Identity Mappings in Deep Residual Networks" (https://arxiv.org/abs/1603.05027), equation 4
    with layer normalisation; mixtures in every other block as in Lepikhin et al. 2021, "GShard"
    (https://arxiv.org/abs/2006.16668), section 2.

    Args:
        d_in: features of the input.
        d_out: features of the output.
        width: features between the blocks.
        dense: makes the `f` of a dense block from its widths, such as `MLP`.
        experts: makes the `f` of a mixture block from its widths, such as `SparseMoE`.
        depth: number of blocks.
        placement: choice of the blocks that are mixtures; `every_other` counts back from the last block.

    Raises:
        ValueError: no block, an unknown placement, or a placement that needs the maker that was not given.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        width: int = 64,
        dense: Callable[[int, int], nn.Module] = MLP,
        experts: Callable[[int, int], nn.Module] | None = None,
        depth: int = 1,
        placement: Placement = "all",
    ) -> None:
        super().__init__()
        mixtures = mixture_positions(depth, placement)
        if mixtures and experts is None:
            raise ValueError(f"placement {placement!r} needs `experts`; give a layer there, or placement 'none'")
        makers = [experts if position in mixtures and experts is not None else dense for position in range(depth)]
        self.input = nn.Linear(d_in, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.blocks = nn.ModuleList(make(width, width) for make in makers)
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, d_out)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., d_in] -> [..., d_out]`."""
        x = self.input(x)
        for norm, block in zip(self.norms, self.blocks, strict=True):
            x = x + block(norm(x))
        return self.output(self.norm(x))
