"""The headroom of recorded returns, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from modules.functional.headroom import headroom


@pytest.mark.parametrize(
    ("returns", "expected"),
    [
        ([10.0, 10.0, 12.0, 8.0], 0.1),  # above the mean by 2 once in four: a root of 1
        ([-10.0, -10.0, -12.0, -8.0], 0.1),
        ([0.0, 0.0, 0.0, 8.0], math.sqrt(36.0 / 4) / 2.0),
        ([8.0, 8.0, 8.0, 0.0], math.sqrt(3 * 4.0 / 4) / 6.0),  # what lies below the mean counts for nothing
        ([3.0, 3.0], 0.0),
        ([0.0], 0.0),
        ([-1.0, 1.0], math.inf),
    ],
)
def test_returns_above_their_mean_are_headroom(returns: list[float], expected: float) -> None:
    assert headroom(torch.tensor(returns)) == pytest.approx(expected)


def test_headroom_has_no_unit() -> None:
    returns = torch.rand(50, generator=torch.Generator().manual_seed(0))
    assert headroom(1000.0 * returns) == pytest.approx(headroom(returns))


def test_long_sums_are_not_lost_in_single_precision() -> None:
    """Returns of ten million that differ by two around their mean."""
    returns = torch.tensor([1e7 - 2.0, 1e7 + 2.0])
    assert headroom(returns) == pytest.approx(math.sqrt(2.0) / 1e7)
