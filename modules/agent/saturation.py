"""Targets beyond what a head's codec can tell: how many there are, and a warning with the numbers to set."""

from __future__ import annotations

import math

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from modules.networks.value_codecs import TwoHot
from modules.networks.value_ensemble import Members
from modules.networks.value_heads import ValueHead


def saturation(head: ValueHead, target: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Number of targets `[...]` that count, bool `[...]`, and lie beyond the codec's range; and how far the farthest is
    from its middle, where 1 is the edge.
    """
    reach = torch.where(counted, head.codec.reach(target), 0.0)
    return (reach > 1.0).sum(), reach.max()


def warn_of_saturation(head: ValueHead, what: str, reach: float) -> None:
    """Say which bins would hold targets that reach so far, as `saturation` measures it, with a quarter to spare.

    Args:
        head: head that learns them.
        what: `value` or `reward`, whose codec it is.
        reach: above 1.
    """
    ensemble = isinstance(head.codec, Members)
    codec = head.codec.codec if isinstance(head.codec, Members) else head.codec
    assert isinstance(codec, TwoHot), "no other codec has an edge"
    low, high = codec.range
    middle, half = (low + high) / 2.0, math.ceil(1.25 * reach * (high - low) / 2.0)
    bins = math.ceil((codec.width - 1) * 2.0 * half / (high - low)) + 1
    parts = "model", *(["reward"] if what == "reward" else []), *(["head"] if ensemble else []), "codec"
    key = "--model." + ".init_args.".join(parts)
    form = f"spacing: {codec.spacing}" + (", unbiased: true" if codec.unbiased else "")
    rank_zero_warn(
        f"targets of the {what} head lie up to {reach:.3g} times as far out as its bins, from {low:g} to "
        f"{high:g}, and are learned as if they were at the edge: {key} modules.networks.value_codecs.TwoHot "
        f"{key}.init_args '{{low: {middle - half:g}, high: {middle + half:g}, bins: {bins}, {form}}}'"
    )
