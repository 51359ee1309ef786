"""Progress of commands that count: a bar on a terminal, and plain lines in a file or a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LINE_SECONDS = 10.0

Count = Callable[[int, int], None]
"""Called with how many are done, and how many there are."""


@contextmanager
def counting(what: str) -> Iterator[Count]:
    """Show on standard error how far something is: a bar that vanishes at the end, or a line every ten seconds.

    Args:
        what: the thing that is counted, such as `transitions`.
    """
    if sys.stderr.isatty():
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=Console(file=sys.stderr), transient=True) as progress:
            task = progress.add_task(what, total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total)
        return
    began = told = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told < _LINE_SECONDS or not done:
            return
        told = now
        left = (now - began) * max(0, total - done) / done
        print(f"{what}: {done:,} of {total:,}, about {left:,.0f} s left", file=sys.stderr, flush=True)

    yield tell
