"""A space as JSON, in Minari's form, read from files of anyone."""

from __future__ import annotations

import json
import math

import gymnasium as gym
from minari.serialization import deserialize_space

from modules.trust.names import short

NUMBERS = frozenset(
    {"bool", "float16", "float32", "float64"} | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)
"""Types of numbers that a space may be of; NumPy would read sizes out of others, such as texts of 10^9 letters."""


def read_space(text: object) -> gym.Space:
    """The space that a text describes; it takes no more memory than the text.

    Raises:
        ValueError: it describes none.
    """
    try:
        if not isinstance(text, str):
            raise ValueError("it is no text")
        if _entries(json.loads(text), len(text)) > len(text):
            raise ValueError("shapes with more entries than it writes bounds for")
        return deserialize_space(text)
    except (LookupError, TypeError, ValueError, AssertionError, AttributeError, RuntimeError) as e:
        raise ValueError(f"{type(e).__name__} {short(str(e), 200)}; it is {short(text)}") from e


def _entries(part: object, limit: int) -> int:
    """Entries of all boxes in a space: no more than the limit, the characters of its text: every bound is written out.

    Raises:
        ValueError: a box has no sizes, or is of another type than of numbers.
    """
    if not isinstance(part, dict):
        return 0
    kind, shape = part.get("type"), part.get("shape", [])
    if kind in ("Box", "MultiDiscrete") and part.get("dtype") not in NUMBERS:
        raise ValueError(f"a {kind} of {short(part.get('dtype'))}")
    own = math.prod(shape) if kind == "Box" else 0
    if own > limit or any(type(size) is not int or size < 0 for size in shape):
        raise ValueError(f"a shape of {short(shape)}, and bounds for less")
    inside = part.get("subspaces", [])
    return own + sum(_entries(each, limit) for each in (inside.values() if isinstance(inside, dict) else inside))
