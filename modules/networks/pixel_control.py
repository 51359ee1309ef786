"""Values of changing what is seen: for each action and each cell of the images."""

from __future__ import annotations

from torch import Tensor, nn

from modules.networks.blocks import OutputLinear
from modules.networks.trunks import Trunk


class PixelControl(nn.Module):
    """Values of every action for every cell: `[..., D]` features to `[..., A, K]`.

    A stream for the value of a cell, and one for what each action adds, whose mean over actions is taken off. Source:
    Jaderberg et al. 2017 (https://arxiv.org/abs/1611.05397), section 4.1; deviation: dense layers in the place of
    transposed convolutions.

    Args:
        d_in: width `D` of the features.
        units: width of the trunk.
        trunk: makes a dense network from its widths of input and output.
        actions: number of actions `A`.
        cells: number of cells `K`.
    """

    def __init__(self, d_in: int, units: int, trunk: Trunk, actions: int, cells: int) -> None:
        super().__init__()
        self.actions = actions
        self.trunk = trunk(d_in, units)
        self.value = OutputLinear(units, cells)
        self.gain = OutputLinear(units, actions * cells)

    def forward(self, features: Tensor) -> Tensor:
        """`[..., D]` to `[..., A, K]`."""
        x = self.trunk(features)
        gain = self.gain(x).unflatten(-1, (self.actions, -1))
        return self.value(x).unsqueeze(-2) + gain - gain.mean(-2, keepdim=True)
