"""A space as JSON, in Minari's form, read from files of anyone."""

from __future__ import annotations

import json
import math

import gymnasium as gym
from minari.serialization import deserialize_space

from modules.trust import short


def read_space(text: object) -> gym.Space:
    """The space that a text describes; it takes no more memory than the text.

    Raises:
        ValueError: it describes none.
    """
    try:
        if not isinstance(text, str):
            raise ValueError("it is no text")
        _check_sizes(json.loads(text), len(text))
        return deserialize_space(text)
    except (LookupError, TypeError, ValueError, AssertionError, AttributeError, RuntimeError) as e:
        raise ValueError(f"{type(e).__name__} {short(str(e), 200)}; it is {short(text)}") from e


def _check_sizes(part: object, limit: int) -> None:
    """Refuse shapes with more entries than the text has characters: every bound is written out."""
    if not isinstance(part, dict):
        return
    shape = part.get("shape", [])
    if part.get("type") == "Box" and (math.prod(shape) > limit or any(size < 0 for size in shape)):
        raise ValueError(f"a shape of {shape}, and bounds for less")
    inside = part.get("subspaces", [])
    for each in inside.values() if isinstance(inside, dict) else inside:
        _check_sizes(each, limit)
