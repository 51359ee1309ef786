"""The learning-rate schedule at known points."""

from __future__ import annotations

import itertools

import pytest

from modules.functional.schedules import one_cycle


@pytest.mark.parametrize(
    ("progress", "factor"),
    [(0.0, 0.04), (0.15, 0.52), (0.3, 1.0), (0.65, 0.5), (0.475, 0.8535534), (1.0, 4e-6)],
)
def test_one_cycle(progress: float, factor: float) -> None:
    assert one_cycle(progress) == pytest.approx(factor, abs=3e-6)


def test_one_cycle_rises_and_falls_without_a_jump() -> None:
    factors = [one_cycle(i / 1000) for i in range(1001)]
    steps = [b - a for a, b in itertools.pairwise(factors)]
    assert all(step > 0 for step in steps[:300])
    assert all(step < 0 for step in steps[300:])
    assert max(map(abs, steps)) < 0.006  # the slope of half a cosine over 300 steps
