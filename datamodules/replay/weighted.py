"""Draws of rows that are not all alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchrl.data import RandomSampler
from torchrl.data.replay_buffers import Storage


class WeightedSampler(RandomSampler):
    """Draws with replacement, each row in proportion to its weight; the search takes `log n` steps a draw.

    TorchRL's PrioritizedSampler is for weights that change: it keeps trees of them, and has no generator.

    Args:
        weights: `[n]` weights of all rows of the storage, not negative, at least one of them above 0.
        generator: generator of the draws, on the device of the weights.
    """

    def __init__(self, weights: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator
        self.ends = weights.double().cumsum(0)
        self.most = torch.nextafter(self.ends[-1], self.ends.new_zeros(()))

    def sample(self, storage: Storage, batch_size: int) -> tuple[Tensor, dict[str, Any]]:
        draw = torch.rand(batch_size, dtype=torch.float64, generator=self.generator, device=self.ends.device)
        # Rows of weight 0 end where they begin, and are never hit; rounding must not lead behind the others.
        return torch.searchsorted(self.ends, (draw * self.ends[-1]).clamp_(max=self.most), right=True), {}
