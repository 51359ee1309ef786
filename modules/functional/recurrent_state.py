"""Recurrent states of any nesting, handled as the tensors in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


def map_leaves(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """The nesting with each leaf replaced by what the function makes of it.

    Args:
        function: takes the leaf, and those at its place in each of the others.
        tree: tuples, named tuples, lists and dicts in any nesting; all else, None too, is a leaf.
        others: nestings of the same form.
    """
    if isinstance(tree, dict):
        return {key: map_leaves(function, item, *(other[key] for other in others)) for key, item in tree.items()}
    if isinstance(tree, list | tuple):
        items = [map_leaves(function, *parts) for parts in zip(tree, *others, strict=True)]
        if isinstance(tree, list):
            return items
        return type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)
    return function(tree, *others)


def leaves_of(tree: Any) -> list[Any]:
    """All leaves of a nesting, see `map_leaves`, in a fixed order."""
    found: list[Any] = []
    map_leaves(found.append, tree)
    return found


def with_leaves(tree: Any, leaves: list[Any]) -> Any:
    """The nesting with other leaves, in the order of `leaves_of`.

    Raises:
        ValueError: there are more or fewer of them.
    """
    rest: Iterator[Any] = iter(leaves)
    if len(leaves) != (number := len(leaves_of(tree))):
        raise ValueError(f"{len(leaves)} leaves for {number} places")
    return map_leaves(lambda _: next(rest), tree)


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

    return map_leaves(choose, state, fresh)
