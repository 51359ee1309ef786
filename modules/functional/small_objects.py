"""Small objects in predicted images: which frames lack them, and which have too many.

A model that minimises an error over all pixels loses little where it leaves out a ball of one pixel, or paints half of
it in two places; who learns in such a model never meets the ball (the bullets that vanish in Kaiser et al. 2020,
https://arxiv.org/abs/1903.00374, section 6). An error over all pixels does not show it, a count of pixels does.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class ObjectShares(NamedTuple):
    """Shares of frames, in [0, 1]: scalars, or one for each step.

    Attributes:
        vanished: frames that lack objects which are there in truth.
        multiplied: frames with more than are there in truth.
    """

    vanished: Tensor
    multiplied: Tensor


def usual_frame(frames: Tensor) -> Tensor:
    """The median of each pixel over frames `[N, ...]`: the background, where objects move: `[...]`."""
    return frames.median(0).values


def object_pixels(frames: Tensor, background: Tensor, least: float = 64.0) -> Tensor:
    """Number of pixels of frames `[..., H, W, C]` that belong to no background, `[...]` int64.

    Args:
        frames: bytes, or floats on the same scale.
        background: `[H, W, C]`.
        least: difference from the background, in one of the channels, above which a pixel belongs to an object.
    """
    return ((frames.float() - background.float()).abs() > least).any(-1).sum((-2, -1))


def object_shares(model: Tensor, truth: Tensor, part: float = 0.5) -> ObjectShares:
    """Compares numbers of pixels of objects, frame by frame.

    Args:
        model: `[...]` numbers in predicted frames.
        truth: `[...]` numbers in the true frames.
        part: difference from which on a frame counts, as a part of the true number.
    """
    return ObjectShares(*(wrong.float().mean() for wrong in _wrong(model, truth, part)))


def object_shares_by_step(model: Tensor, truth: Tensor, known: Tensor, part: float = 0.5) -> ObjectShares:
    """Shares of the frames of each step, `[T]`; NaN at steps of which no frame is known.

    Objects that a model loses one after the other do not come back: their share rises from step to step.

    Args:
        model: `[T, B]` numbers in predicted frames.
        truth: `[T, B]` numbers in the true frames.
        known: `[T, B]` bool, the frame counts.
        part: as in `object_shares`.
    """
    frames = torch.where(known.any(1), known.sum(1).float(), torch.nan)
    return ObjectShares(*((wrong & known).sum(1) / frames for wrong in _wrong(model, truth, part)))


def _wrong(model: Tensor, truth: Tensor, part: float) -> tuple[Tensor, Tensor]:
    """Bool `[...]`, frames that lack objects, and frames with too many."""
    vanished = (truth > 0) & (model <= (1.0 - part) * truth)
    multiplied = (model > truth) & (model >= (1.0 + part) * truth)
    return vanished, multiplied
