"""Small layers that several networks share."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


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
