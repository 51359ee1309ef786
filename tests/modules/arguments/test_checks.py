"""Checks of arguments name the argument, its bounds and its value."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from modules.arguments import checks


@pytest.mark.parametrize(
    ("check", "said"),
    [
        (lambda: checks.check_sizes(a=1, b=0), "b must be at least 1, got 0"),
        (lambda: checks.check_sizes(a=10**16), "a must be at most 1,000,000,000,000,000, got 10000000000000000"),
        (lambda: checks.check_counts(2, a=None, b=1), "b must be at least 2, got 1"),
        (lambda: checks.check_widths(a=[1, 1 << 21]), "a must lie in [1, 1,048,576], got 2097152"),
        (lambda: checks.check_intervals(a=None, b=(1.0, 1.0)), "b must rise from its low to its high end"),
        (lambda: checks.check_ranges(("a", math.nan, 0.0, 1.0)), "a must lie in [0, 1], got nan"),
        (lambda: checks.check_shares(a=0.0, b=1.0), "b must lie in [0, 1), got 1.0"),
        (lambda: checks.check_positive(a=1e-9, b=math.inf), "b must be positive and finite, got inf"),
        (lambda: checks.check_positive(a=0.0), "a must be positive and finite, got 0.0"),
        (lambda: checks.check_choice("a", "z", ("x", "y")), "a must be one of x, y, got 'z'"),
    ],
)
def test_a_refusal_names_the_argument(check: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the text is compared as a whole
        check()
    assert str(refusal.value).startswith(said)


def test_bounds_themselves_pass() -> None:
    checks.check_sizes(a=1, b=checks.MOST, c=None)
    checks.check_counts(0, a=0)
    checks.check_widths(a=checks.WIDEST, b=[1, 2])
    checks.check_ranges(("a", 0.0, 0.0, 1.0), ("b", 1.0, 0.0, 1.0))
    checks.check_shares(a=0.0, b=0.999)
    checks.check_choice("a", "x", ("x", "y"))
