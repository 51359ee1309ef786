"""Schedules at known points, and what is none."""

from __future__ import annotations

import itertools
import math

import pytest

from modules.functional.schedules import one_cycle, parse_schedule


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


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (0.3, {0: 0.3, 10**9: 0.3}),
        (2, {0: 2.0}),
        (" 1e-3 ", {0: 1e-3, 7: 1e-3}),
        ("constant(0.5)", {0: 0.5, 7: 0.5}),
        ("linear(3e-3, 3e-4, 1000)", {0: 3e-3, 500: 1.65e-3, 1000: 3e-4, 5000: 3e-4}),
        ("linear(0,1,4)", {1: 0.25}),
        ("cosine(1, 0.0625, 150000)", {0: 1.0, 75_000: 0.53125, 50_000: 0.765625, 150_000: 0.0625, 10**6: 0.0625}),
        ("warmup(10, 0.5)", {0: 0.0, 4: 0.2, 10: 0.5, 11: 0.5}),
        ("linear(1, 3, 1)", {0: 1.0, 1: 3.0, 2: 3.0}),
        ("cosine(1, 3, 1)", {0: 1.0, 1: 3.0, 2: 3.0}),
        ("warmup(1, 3)", {0: 0.0, 1: 3.0, 2: 3.0}),
        ("exp(1, 3, 1)", {0: 1.0, 1: 2.0, 2: 2.5}),
        ("exp(1, 0.2, 100)", {0: 1.0, 100: 0.6, 200: 0.4, 10**6: 0.2}),
    ],
)
def test_a_schedule_at_known_points(text: float | str, values: dict[int, float]) -> None:
    schedule = parse_schedule(text)
    for updates, value in values.items():
        assert schedule(updates) == pytest.approx(value, abs=1e-12)
    assert schedule.is_constant == (len({round(schedule(i), 9) for i in (0, 3, 10**7)}) == 1)


@pytest.mark.parametrize("text", ["linear(1, 0, 10)", "cosine(-1, 2, 10)", "warmup(10, 3)", "exp(1, 0.5, 3)"])
def test_a_schedule_stays_between_its_ends(text: str) -> None:
    schedule = parse_schedule(text)
    values = [schedule(i) for i in range(100)]
    assert values[0] == schedule.start
    assert math.isclose(values[-1], schedule.end, rel_tol=1e-6)
    steps = [b - a for a, b in itertools.pairwise(values)]
    assert all(step * (schedule.end - schedule.start) >= 0 for step in steps)


@pytest.mark.parametrize(
    "text",
    ["linear(1, 0)", "linear(1, 0, 0)", "sine(1, 0, 5)", "linear(1, x, 5)", "linear(1, 0, 5", "", "nan", "inf", None,
     "constant()", "warmup(0.001, 10000)", "exp(1, 0, 0)", "linear(linear(1, 0, 5), 0, 5)", [1.0]],
)  # fmt: skip
def test_what_is_no_schedule_is_named_with_the_known_forms(text: object) -> None:
    with pytest.raises(
        ValueError, match=r"no schedule: give a number, or one of constant\(value\), linear\("
    ) as caught:
        parse_schedule(text)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)
