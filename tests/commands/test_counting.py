"""Progress of commands in a file or a pipe."""

from __future__ import annotations

import pytest

from commands import counting


def test_a_pipe_gets_a_line_every_ten_seconds_with_the_time_that_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(counting.time, "monotonic", lambda: now[0])
    with counting.counting("transitions") as count:
        for done, at in ((0, 150.0), (10, 160.0), (20, 165.0), (1_500, 170.0)):
            now[0] = at
            count(done, 2_000)
    lines = capsys.readouterr().err.splitlines()
    # 10 of 2,000 in 60 s, so 1,990 take 11,940 s; 1,500 in 70 s, so 500 take 23 s. At 165 s the last line is too young.
    assert lines == [
        "transitions: 10 of 2,000, about 11,940 s left",
        "transitions: 1,500 of 2,000, about 23 s left",
    ]
