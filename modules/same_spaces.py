"""Whether two pairs of spaces mean the same by the same numbers."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from modules.batch import Spaces, brief
from modules.trust.names import cut


def check_same_spaces(
    what: str, known: Spaces, environment: str, offered: Spaces, wrappers: str = "--data.wrappers"
) -> None:
    """Refuse to use something, such as a checkpoint, with an environment that means other things by the same numbers.

    Observations must be of the same kind and shape, and bytes in both or in neither; actions within the same bounds,
    too.

    Args:
        what: name of the thing, for the error.
        known: the spaces that it is made for.
        environment: name of the environment, for the error.
        offered: the spaces of the environment.
        wrappers: the argument that takes wrappers of the environment, for the advice.

    Raises:
        ValueError: the kinds, the shapes or the bounds of the actions differ.
    """
    check_same_kinds(what, known, environment, offered)
    mine, theirs = known.action, offered.action
    if isinstance(mine, gym.spaces.Box) and isinstance(theirs, gym.spaces.Box) and not _same_bounds(mine, theirs):
        raise ValueError(
            f"{what} does not fit {environment}: its actions are from {_bounds(mine)}, the environment's from "
            f"{_bounds(theirs)}{_advice(mine, theirs, wrappers)}"
        )


def check_same_kinds(what: str, known: Spaces, environment: str, offered: Spaces) -> None:
    """As `check_same_spaces`, whatever the bounds of the actions are.

    Raises:
        ValueError: the kinds or the shapes differ.
    """
    for field in ("observation", "action"):
        mine, theirs = getattr(known, field), getattr(offered, field)
        if not _same_kind(mine, theirs):
            raise ValueError(
                f"{what} does not fit {environment}: its {field} space is {brief(mine)}, there it is {brief(theirs)}"
            )


def _same_kind(mine: gym.Space, theirs: gym.Space) -> bool:
    if isinstance(mine, gym.spaces.Dict) and isinstance(theirs, gym.spaces.Dict):
        same_keys = mine.spaces.keys() == theirs.spaces.keys()
        return same_keys and all(_same_kind(space, theirs[key]) for key, space in mine.items())
    if type(mine) is not type(theirs) or mine.shape != theirs.shape:
        return False
    if isinstance(mine, gym.spaces.Box):
        return (mine.dtype == np.uint8) == (theirs.dtype == np.uint8)
    # Of a Discrete space, whose shape is (), and of a MultiDiscrete one: how many values, and from which on.
    return all(
        np.array_equal(getattr(mine, name, None), getattr(theirs, name, None))  # type: ignore[arg-type]  # None is None
        for name in ("n", "nvec", "start")
    )


def _same_bounds(mine: gym.spaces.Box, theirs: gym.spaces.Box) -> bool:
    """Whether two boxes have the same bounds, up to float32 rounding; an environment without bounds has no other."""
    pairs = ((mine.low, theirs.low), (mine.high, theirs.high))
    return all((np.isclose(a, b, rtol=1e-5, atol=1e-6) | np.isinf(b)).all() for a, b in pairs)


def _advice(mine: gym.spaces.Box, theirs: gym.spaces.Box, wrappers: str) -> str:
    """Advice where the bounds of the actions differ, as the end of a message."""
    low, high = mine.low.reshape(-1), mine.high.reshape(-1)
    if not (mine.is_bounded() and theirs.is_bounded() and (low == low[0]).all() and (high == high[0]).all()):
        return f"; name the wrapper that turns the first into the second with {wrappers}"
    arguments = f"min_action: {float(low[0])}, max_action: {float(high[0])}"
    return (
        f"; if the first were rescaled to the second, say so: {wrappers} "
        f"'[{{class_path: gymnasium.wrappers.RescaleAction, init_args: {{{arguments}}}}}]'"
    )


def _bounds(space: gym.spaces.Box) -> str:
    """`-1 to 1`, or all bounds where they differ between components."""
    low, high = (np.unique(values) for values in (space.low, space.high))
    if len(low) == 1 and len(high) == 1:
        return f"{low[0]:g} to {high[0]:g}"
    return " to ".join(cut(str(ends.tolist()), 94) for ends in (space.low, space.high))
