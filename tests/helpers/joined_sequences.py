"""Batches of sequences of several ranks as one batch."""

from __future__ import annotations

import torch
from torch import Tensor

from modules.batch import PrioritizedSequences, SequenceBatch


def joined(a: PrioritizedSequences, b: PrioritizedSequences) -> PrioritizedSequences:
    """Both batches as one; observations have the key `observation`."""

    def along(name: str, axis: int) -> Tensor | None:
        pair = [getattr(x, name) for x in (a, b)]
        return None if pair[0] is None else torch.cat(pair, axis)

    observation = torch.cat([x.sequence.observation["observation"] for x in (a, b)], 1)
    rows = (torch.cat(pair, 1) for pair in zip(a.sequence[1:], b.sequence[1:], strict=True))
    rest = {name: along(name, 0) for name in ("start_state", "weight", "index", "episode", "age")}
    by_row = {name: along(name, 1) for name in ("padding", "stored")}
    return PrioritizedSequences(SequenceBatch({"observation": observation}, *rows), **by_row, **rest)  # type: ignore[arg-type]
