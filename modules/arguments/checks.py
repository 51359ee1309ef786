"""Checks of constructor arguments, with the argument's name in the error."""

from __future__ import annotations

from collections.abc import Sequence

MOST = 10**15
"""Above any number of updates, rows or steps that could be meant; what is larger overflows somewhere."""

DEEPEST = 10_000
"""Layers of a network."""

WIDEST = 1 << 20
"""Of a layer: a square one has four terabytes of weights."""


def check_sizes(**sizes: int) -> None:
    """Refuse sizes below 1, and absurd ones.

    Raises:
        ValueError: it names the first one.
    """
    check_counts(1, **sizes)


def check_counts(least: int, **counts: int) -> None:
    """Refuse counts below `least`, and absurd ones.

    Raises:
        ValueError: it names the first one.
    """
    for name, value in counts.items():
        if not least <= value <= MOST:
            bound = f"at least {least}" if not value >= least else f"at most {MOST:,}"
            raise ValueError(f"{name} must be {bound}, got {value}")


def check_widths(**widths: int | Sequence[int]) -> None:
    """Refuse widths of layers that are no layers, one or several of a name.

    Raises:
        ValueError: it names the first one.
    """
    for name, value in widths.items():
        for width in [value] if isinstance(value, int) else value:
            if not 1 <= width <= WIDEST:
                raise ValueError(f"{name} must lie in [1, {WIDEST:,}], got {width}")


def check_intervals(**intervals: tuple[float, float] | None) -> None:
    """Refuse intervals that are empty; None is no interval.

    Raises:
        ValueError: it names the first one.
    """
    for name, interval in intervals.items():
        if interval is not None and not interval[0] < interval[1]:
            raise ValueError(f"{name} must rise from its low to its high end, got {list(interval)}")


def check_ranges(*ranges: tuple[str, float, float, float]) -> None:
    """Refuse numbers outside of their closed range; each is given as name, value, low, high.

    Raises:
        ValueError: it names the first one.
    """
    for name, value, low, high in ranges:
        if not low <= value <= high:
            raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got {value}")
