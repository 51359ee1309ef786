from __future__ import annotations

import pytest

from modules import wall_time
from modules.wall_time import taken, timed


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that shows its only entry."""
    now = [100.0]
    monkeypatch.setattr(wall_time.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(wall_time, "_since", 100.0)
    monkeypatch.setattr(wall_time, "_seconds", {})
    return now


def test_each_moment_counts_for_the_innermost_activity_alone(clock: list[float]) -> None:
    @timed("acting")
    def act(seconds: float) -> float:
        """A docstring that stays."""
        clock[0] += seconds
        return seconds

    clock[0] += 1.0
    with timed("collecting"):
        clock[0] += 2.0
        assert act(4.0) == 4.0
        clock[0] += 8.0
        act(16.0)
    clock[0] += 32.0
    assert taken() == {"other": 33.0, "collecting": 10.0, "acting": 20.0}
    assert act.__doc__ == "A docstring that stays."
    assert taken() == {"other": 0.0}


def test_an_error_ends_an_activity_and_what_is_under_way_is_counted_so_far(clock: list[float]) -> None:
    @timed("acting")
    def fail() -> None:
        clock[0] += 4.0
        raise KeyError

    with timed("evaluating"):
        clock[0] += 1.0
        assert taken() == {"other": 0.0, "evaluating": 1.0}
        clock[0] += 2.0
        with pytest.raises(KeyError):
            fail()
        clock[0] += 8.0
    clock[0] += 16.0
    assert taken() == {"evaluating": 10.0, "acting": 4.0, "other": 16.0}
