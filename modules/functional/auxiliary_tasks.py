"""Tasks that a policy's features learn beside the policy: to foresee rewards, and to change what is seen.

Source: Jaderberg et al. 2017, "Reinforcement Learning with Unsupervised Auxiliary Tasks"
(https://arxiv.org/abs/1611.05397).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CLASSES = 3
"""Classes of rewards: none, a positive one, a negative one."""


def reward_class(reward: Tensor) -> Tensor:
    """`[...]` int64: 0 of no reward, 1 of a positive and 2 of a negative one (section 3.2)."""
    return torch.where(reward < 0, 2, (reward > 0).long())


def balanced(rare: Tensor, valid: Tensor) -> Tensor:
    """Weights under which the rare steps count as much as all others together.

    In the place of the source's replay, which shows rewards in half of its draws. Where there are no rare steps, or no
    others, those that there are count half.

    Args:
        rare: `[...]` bool.
        valid: `[...]` bool, which steps count.

    Returns:
        `[...]`, which sum to 1, or to half where one kind is missing.
    """
    kinds = torch.stack([valid & rare, valid & ~rare]).float()
    counts = kinds.flatten(1).sum(1).clamp_min(1.0)
    return 0.5 * (kinds[0] / counts[0] + kinds[1] / counts[1])


def recent(x: Tensor, is_first: Tensor, count: int) -> Tensor:
    """Each row beside those just before it in the episode, the newest first; zeros where there is none in the window.

    Args:
        x: `[T, B, F]`.
        is_first: `[T, B]` bool, whether a row begins an episode.
        count: number of rows, at least 1.

    Returns:
        `[T, B, count F]`.
    """
    there = (~is_first).to(x.dtype).unsqueeze(-1)
    rows = [x]
    for _ in range(count - 1):
        rows.append(torch.cat([torch.zeros_like(x[:1]), rows[-1][:-1]]) * there)
    return torch.cat(rows, -1)


def pixel_changes(images: Tensor, cell: int) -> Tensor:
    """Mean absolute change of the pixels of each cell from row to row, as a share of the whole range (section 3.1).

    Args:
        images: `[T, B, H, W, C]` uint8.
        cell: side of a square cell in pixels; the last ones are smaller where it does not divide a side.

    Returns:
        `[T - 1, B, K]` of `K` cells, row by row.
    """
    seen = images.float()
    change = (seen[1:] - seen[:-1]).abs().mean(-1) / 255.0
    pooled = F.avg_pool2d(change.flatten(0, 1).unsqueeze(1), cell, ceil_mode=True)
    return pooled.flatten(1).unflatten(0, change.shape[:2])


def cells_of(height: int, width: int, cell: int) -> int:
    """Number of cells of an image, see `pixel_changes`."""
    return -(-height // cell) * -(-width // cell)
