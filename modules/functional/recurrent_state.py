"""Recurrent states of any nesting, handled as the tensors in them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map


def restart(state: Any, fresh: Any, first: Tensor) -> Any:
    """The state with fresh rows where an episode begins.

    Args:
        state: tensors `[B, ...]` in any nesting of tuples, lists and dicts; None for no memory.
        fresh: state of the same form at the start of an episode.
        first: `[B]` bool, the next observation is the first of its episode.

    Returns:
        New tensors in the same nesting; what is no tensor stays as it is in `state`.
    """

    def choose(old: Any, new: Any) -> Any:
        return torch.where(first.view(-1, *[1] * (old.ndim - 1)), new, old) if isinstance(old, Tensor) else old

    return tree_map(choose, state, fresh)
