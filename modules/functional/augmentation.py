"""Images as they might as well have been: moved a little, brighter or darker.

Letters: `N` images of `H` rows, `W` columns and `C` channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

FARTHEST = 2.0
"""Standard deviations beyond which no brightness is drawn."""


def shifted(image: Tensor, offset: Tensor) -> Tensor:
    """Images `[N, H, W, C]` moved down and to the right; pixels at the edge are repeated where others would be missing.

    This is what padding by the edge, and cutting the old size out of that, gives: Yarats et al. 2021, "Image
    Augmentation Is All You Need" (https://arxiv.org/abs/2004.13649), section 3.

    Args:
        image: of any type.
        offset: int64 `[N, 2]` rows and columns; negative ones move up and to the left.
    """
    count, height, width, _ = image.shape
    number = torch.arange(count, device=image.device)
    row = (torch.arange(height, device=image.device) - offset[:, :1]).clamp(0, height - 1)
    column = (torch.arange(width, device=image.device) - offset[:, 1:]).clamp(0, width - 1)
    return image[number.view(-1, 1, 1), row.unsqueeze(2), column.unsqueeze(1)]


def brightness(normal: Tensor, scale: float) -> Tensor:
    """Factors of brightness, of the shape of standard normal draws: 1 plus `scale` times each, which count up to 2."""
    return 1.0 + scale * normal.clamp(-FARTHEST, FARTHEST)
