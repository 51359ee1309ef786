"""Learning rates over the course of a training run, as factors of the peak."""

from __future__ import annotations

import math


def one_cycle(progress: float, warm_up: float = 0.3, start: float = 0.04, end: float = 4e-6) -> float:
    """Up along half a cosine, then down along another.

    Source: Smith & Topin 2018, "Super-Convergence" (https://arxiv.org/abs/1708.07120), with cosines for the lines of
    the paper, and `torch.optim.lr_scheduler.OneCycleLR`'s constants.

    Args:
        progress: share of the updates that are done, 0 to 1.
        warm_up: share of the updates until the peak.
        start: factor at the first update.
        end: factor at the end.
    """
    low, part = (start, progress / warm_up) if progress < warm_up else (end, (1 - progress) / (1 - warm_up))
    return low + (1 - low) * (1 - math.cos(math.pi * part)) / 2
