"""Checks of arguments, with the argument's name in the error: the one set for constructors and commands."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import fields
from typing import Any

from modules.trust.hints import fits, hints_of, words
from modules.trust.names import short

MOST = 10**15
"""Above any number of updates, rows or steps that could be meant; larger numbers overflow somewhere."""

DEEPEST = 10_000
"""Most layers of a network."""

LARGEST_SEED = 2**31 - 1
"""Of all seeds alike: some environments take no larger one, and others are made of it by sums and products."""

WIDEST = 1 << 20
"""Greatest width of a layer: a square one has four terabytes of weights."""


def check_sizes(**sizes: int | None) -> None:
    """Refuse sizes below 1, and absurdly large ones; None is no size.

    Raises:
        ValueError: a size is refused; the message names the first one.
    """
    check_counts(1, **sizes)


def check_counts(least: int, **counts: int | None) -> None:
    """Refuse counts below `least`, and absurdly large ones; None is no count.

    Raises:
        ValueError: a count is refused; the message names the first one.
    """
    for name, value in counts.items():
        if value is not None and not least <= value <= MOST:
            bound = f"at least {least}" if not value >= least else f"at most {MOST:,}"
            raise ValueError(f"{name} must be {bound}, got {value}")


def check_seed(**seeds: int) -> None:
    """Refuse seeds that are negative, or that not everything takes which they are handed to.

    Raises:
        ValueError: a seed is refused; the message names the first one.
    """
    for name, value in seeds.items():
        if not 0 <= value <= LARGEST_SEED:
            raise ValueError(f"{name} must lie in [0, {LARGEST_SEED:,}], got {value}")


def check_widths(**widths: int | Sequence[int]) -> None:
    """Refuse widths that no layer can have, one or several of a name.

    Raises:
        ValueError: a width is refused; the message names the first one.
    """
    for name, value in widths.items():
        for width in [value] if isinstance(value, int) else value:
            if not 1 <= width <= WIDEST:
                raise ValueError(f"{name} must lie in [1, {WIDEST:,}], got {width}")


def check_intervals(**intervals: tuple[float, float] | None) -> None:
    """Refuse empty intervals; None is no interval.

    Raises:
        ValueError: an interval is empty; the message names the first one.
    """
    for name, interval in intervals.items():
        if interval is not None and not interval[0] < interval[1]:
            raise ValueError(f"{name} must rise from its low to its high end, got {list(interval)}")


def check_ranges(*ranges: tuple[str, float, float, float]) -> None:
    """Refuse numbers outside of their closed range; each is given as name, value, low, high.

    Raises:
        ValueError: a number is refused; the message names the first one.
    """
    for name, value, low, high in ranges:
        if not low <= value <= high:
            raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got {value}")


def check_shares(**shares: float) -> None:
    """Refuse shares that are negative, or all of the whole.

    Raises:
        ValueError: a share is refused; the message names the first one.
    """
    for name, value in shares.items():
        if not 0.0 <= value < 1.0:
            raise ValueError(f"{name} must lie in [0, 1), got {value}")


def check_positive(**numbers: float) -> None:
    """Refuse numbers that are 0, negative or not finite.

    Raises:
        ValueError: a number is refused; the message names the first one.
    """
    for name, value in numbers.items():
        if not 0.0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value}")


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Refuse a name that is none of the choices.

    Raises:
        ValueError: it lists the choices.
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_kinds(**values: tuple[Any, type]) -> None:
    """Refuse values that are not of their kind; each is given with it.

    Raises:
        ValueError: a value is refused; the message names the first one.
    """
    for name, (value, kind) in values.items():
        if not isinstance(value, kind):
            raise ValueError(f"{name} must be of the kind {kind.__name__}, got {_told(value)}")


def check_group(name: str, group: Any) -> None:
    """Refuse a group of arguments, a dataclass, of which a field is not what its hint says.

    Raises:
        ValueError: a field is refused; the message names the first one, as `critic.roles`.
    """
    hints = hints_of(type(group))
    for field in fields(group):
        value, hint = getattr(group, field.name), hints[field.name]
        if not fits(value, hint):
            none = " or None" if fits(None, hint) else ""
            raise ValueError(f"{name}.{field.name} must be {words(hint)}{none}, got {_told(value)}")


def _told(value: object) -> str:
    """A value in short; a text in quotes, since another type may be asked for."""
    return repr(short(value)) if isinstance(value, str) else short(value)
