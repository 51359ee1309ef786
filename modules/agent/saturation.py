"""Targets beyond what a head's codec can tell: how many there are, and a warning with the numbers to set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from modules.networks.value_codecs import TwoHot
from modules.networks.value_ensemble import Members
from modules.networks.value_heads import ValueHead


class Learned(NamedTuple):
    """Targets of a head.

    Attributes:
        head: head that learns them.
        target: `[...]` in the head's units.
        counted: bool `[...]`, which of them count.
    """

    head: ValueHead
    target: Tensor
    counted: Tensor


class Saturation(nn.Module):
    """Counts the targets beyond what heads can tell in all updates, of which few are read back, and warns of them.

    What it knows is of one process, so no `state_dict` has it: it belongs into the agent's `rank_state`.

    Args:
        names: of the heads.
    """

    count: Tensor
    reach: Tensor

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names
        self.register_buffer("count", torch.zeros((), dtype=torch.int64), persistent=False)
        self.register_buffer("reach", torch.zeros(len(names)), persistent=False)
        self._told: set[str] = set()

    @torch.no_grad()
    def note(self, *learned: Learned) -> dict[str, Tensor]:
        """Look at the targets of an update, in the order of the names.

        Returns:
            Metrics: `saturated`, the number of targets so far that lay beyond the bins; and `NAME_reach`, how far the
            farthest lay from their middle, where 1 is the edge.
        """
        reaches = [torch.where(x.counted, x.head.codec.reach(x.target), 0.0) for x in learned]
        self.count += torch.stack([(reach > 1.0).sum() for reach in reaches]).sum()
        self.reach.copy_(torch.maximum(self.reach, torch.stack([reach.max() for reach in reaches])))
        told = {f"{name}_reach": reach for name, reach in zip(self.names, self.reach.clone(), strict=True)}
        return {"saturated": self.count.clone(), **told}

    def warn(self, *heads: ValueHead) -> None:
        """Warn once of each head whose targets lay beyond its bins."""
        for name, head, reach in zip(self.names, heads, self.reach.tolist(), strict=True):
            if reach > 1.0 and name not in self._told:
                self._told.add(name)
                warn_of_saturation(head, name, reach)

    def content(self) -> dict[str, Tensor]:
        """All that it knows."""
        return {"count": self.count.clone(), "reach": self.reach.clone()}

    def load_content(self, content: Mapping[str, Tensor]) -> None:
        """Inverse of `content`."""
        self.count.copy_(content["count"])
        self.reach.copy_(content["reach"])


def warn_of_saturation(head: ValueHead, what: str, reach: float) -> None:
    """Say which bins would hold targets that reach so far, as `Saturation` measures it, with a quarter to spare.

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
    own = {("reward", False): ["reward"], ("reward", True): ["reward", "head"], ("value", True): ["value"]}
    parts = "model", *own.get((what, ensemble), []), "codec"
    key = "--model." + ".init_args.".join(parts)
    form = f"spacing: {codec.spacing}" + (", unbiased: true" if codec.unbiased else "")
    rank_zero_warn(
        f"targets of the {what} head lie up to {reach:.3g} times as far out as its bins, from {low:g} to "
        f"{high:g}, and are learned as if they were at the edge: {key} modules.networks.value_codecs.TwoHot "
        f"{key}.init_args '{{low: {middle - half:g}, high: {middle + half:g}, bins: {bins}, {form}}}'"
    )
