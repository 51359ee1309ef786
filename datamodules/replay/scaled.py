"""Rewards in the units that an agent learns from."""

from __future__ import annotations

from tensordict import TensorDict


def scaled(batch: TensorDict, factor: float) -> TensorDict:
    """A batch of a replay, of rows, of sequences or of transitions, with its rewards times a factor."""
    if factor != 1.0:
        rows = batch.get("sequence", batch.get("next", batch))
        rows["reward"] = rows["reward"] * factor
    return batch
