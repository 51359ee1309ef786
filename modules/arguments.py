"""Checks of constructor arguments, with the argument's name in the error."""

from __future__ import annotations


def check_sizes(**sizes: int) -> None:
    """Refuse sizes below 1.

    Raises:
        ValueError: it names the first one.
    """
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def check_ranges(*ranges: tuple[str, float, float, float]) -> None:
    """Refuse numbers outside of their closed range; each is given as name, value, low, high.

    Raises:
        ValueError: it names the first one.
    """
    for name, value, low, high in ranges:
        if not low <= value <= high:
            raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got {value}")
