"""Small layers that several networks share."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from modules.functional.expert_forms import Activation, activate, first_width


class Normalize(nn.Module):
    """`(x - mean) / std` over the last axis with fixed statistics, kept as buffers so that checkpoints carry them."""

    mean: Tensor
    std: Tensor

    def __init__(self, features: int, mean: np.ndarray | None = None, std: np.ndarray | None = None) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features) if mean is None else torch.as_tensor(mean).float())
        self.register_buffer("std", torch.ones(features) if std is None else torch.as_tensor(std).float())

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D] -> [..., D]`."""
        return (x - self.mean) / self.std


class MLP(nn.Module):
    """Two layers with an activation between them, the dense twin of one expert: `[..., d_in] -> [..., d_out]`.

    Args:
        d_in: width of the input.
        d_out: width of the output.
        hidden: width between the layers; twice the wider of both ends if not given.
        activation: between the layers.
    """

    def __init__(self, d_in: int, d_out: int, hidden: int | None = None, activation: Activation = "relu") -> None:
        super().__init__()
        hidden = hidden or 2 * max(d_in, d_out)
        self.activation = activation
        self.first = nn.Linear(d_in, first_width(hidden, activation))
        self.second = nn.Linear(hidden, d_out)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., d_in] -> [..., d_out]`."""
        return self.second(activate(self.first(x), self.activation))
