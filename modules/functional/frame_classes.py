"""Pixels as classes: levels of brightness that a model chooses from, and a loss that stops where it knows enough.

Source: Kaiser et al. 2020, "Model-Based Reinforcement Learning for Atari" (https://arxiv.org/abs/1903.00374), section
4: one of 256 classes for each pixel and channel, and the loss `max(loss, C)`. Fewer levels are for images that have no
more, such as drawn boards.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BRIGHTEST = 255


def to_levels(frame: Tensor, levels: int) -> Tensor:
    """Bytes to the number of the nearest level, `[...]` int64; level `k` is the brightness `255 k / (levels - 1)`."""
    return (frame.float() * ((levels - 1) / BRIGHTEST)).round().long()


def from_levels(level: Tensor, levels: int) -> Tensor:
    """Inverse of `to_levels` for brightnesses that are levels: `[...]` uint8."""
    return (level.float() * (BRIGHTEST / (levels - 1))).round().to(torch.uint8)


def floored_cross_entropy(logits: Tensor, level: Tensor, floor: float) -> Tensor:
    """`max(cross entropy, floor)` of each pixel, `[...]`: one that is foreseen well enough asks for no more.

    So the many pixels of a background, which are soon well enough, leave the gradient to the few of small objects.

    Args:
        logits: `[..., K]` of the levels.
        level: `[...]` int64 level that the pixel has.
        floor: least loss of a pixel, in nats.
    """
    loss = F.cross_entropy(logits.flatten(0, -2).float(), level.flatten(), reduction="none")
    return loss.clamp_min(floor).view_as(level)


def plain_floored_cross_entropy(logits: Tensor, level: Tensor, floor: float) -> Tensor:
    """The definition of `floored_cross_entropy`, pixel by pixel."""
    losses = []
    for scores, truth in zip(logits.reshape(-1, logits.shape[-1]), level.flatten().tolist(), strict=True):
        chance = scores[truth].exp() / scores.exp().sum()
        losses.append(torch.maximum(-chance.log(), torch.tensor(floor, dtype=scores.dtype)))
    return torch.stack(losses).view(level.shape)
