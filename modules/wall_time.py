"""Wall time by what is done: each moment counts for the innermost activity that is under way in this process.

It is read from the system's clock alone: what a GPU is asked for counts where the process waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

OTHER = "other"
"""Name of the time that no activity was named for."""

_under_way = [OTHER]
_seconds: dict[str, float] = {}
_since = time.perf_counter()


def _count() -> None:
    """The time since the last change belongs to what is under way."""
    global _since
    now = time.perf_counter()
    _seconds[_under_way[-1]] = _seconds.get(_under_way[-1], 0.0) + now - _since
    _since = now


@contextmanager
def timed(activity: str) -> Iterator[None]:
    """The block, or the function that this decorates, is this activity, apart from others within it.

    In one thread of a process alone.
    """
    if torch.compiler.is_compiling():  # a graph of a whole update has no clock
        yield
        return
    _count()
    _under_way.append(activity)
    try:
        yield
    finally:
        _count()
        _under_way.pop()


def taken() -> dict[str, float]:
    """Seconds by activity since this was called before, or since the process began."""
    _count()
    seconds = dict(_seconds)
    _seconds.clear()
    return seconds
