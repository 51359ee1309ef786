"""Foreseen latents are drawn towards those that are seen then, by their angle in a space of their own (SimSiam)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.arguments.checks import check_widths
from modules.networks.blocks import DenseStack, OutputLinear, make_norm


class Consistency(nn.Module):
    """How far foreseen latents point away from seen ones.

    Both are projected by the same weights, no average follows them; the foreseen one goes through a predictor, too. The
    seen one is the target, through which no gradient goes: that and the predictor keep all latents from becoming one.

    Sources: Chen & He 2021, "Exploring Simple Siamese Representation Learning" (https://arxiv.org/abs/2011.10566); Ye
    et al. 2021, "Mastering Atari Games with Limited Data" (https://arxiv.org/abs/2111.00210), section 4.1. Theirs
    normalise over the batch; here each latent is normalised by itself, so that a batch may be small.

    Args:
        d_latent: width `D` of the latent.
        projection: width of the space in which angles are taken.
        bottleneck: width of the predictor's hidden layer.

    Raises:
        ValueError: a width is out of range.
    """

    def __init__(self, d_latent: int, projection: int = 128, bottleneck: int = 64) -> None:
        super().__init__()
        check_widths(projection=projection, bottleneck=bottleneck)
        self.projector = nn.Sequential(
            DenseStack(d_latent, projection, layers=2, activation="relu", norm="layer"),
            OutputLinear(projection, projection),
            make_norm("layer", projection),
        )
        self.predictor = nn.Sequential(
            DenseStack(projection, bottleneck, layers=1, activation="relu", norm="layer"),
            OutputLinear(bottleneck, projection),
        )

    def forward(self, foreseen: Tensor, seen: Tensor) -> Tensor:
        """`[..., D]` each to minus the cosine of the angle between them, `[...]` in [-1, 1]: -1 is agreement."""
        with torch.no_grad():
            target = self.projector(seen)
        return -F.cosine_similarity(self.predictor(self.projector(foreseen)), target, dim=-1)
