"""A reader of a stranger's file under watch: it ends in time, within memory, runs no code, and speaks in one line."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

SECONDS = 10.0
"""Processor time in which any small file is read or refused; waiting may take six times as long on a busy machine."""
SPARE = 1 << 30
"""Bytes of address space above three times the file: modules that are imported late, and arenas of threads."""
LONGEST = 700
"""Letters of a message."""

RUNS = ("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "pty.spawn", "subprocess.Popen",
        "socket.bind", "socket.connect", "webbrowser.open")  # fmt: skip
"""Events of the interpreter that nothing which only reads causes."""

_seen: list[str] | None = None


class Hang(BaseException):
    """A reader did not end in time; no `except Exception` catches it."""


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _seen is not None and event in RUNS:
        _seen.append(f"{event}{arguments!r}"[:200])


sys.addaudithook(_hook)


@contextlib.contextmanager
def _limited(size: int) -> Iterator[None]:
    """Limits of time and address space, and a list of the code that runs."""
    global _seen

    def late(*_: Any) -> None:
        raise Hang(f"not read or refused within {SECONDS:g} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    before = [signal.signal(number, late) for number in (signal.SIGALRM, signal.SIGPROF)]
    left = signal.setitimer(signal.ITIMER_REAL, 6.0 * SECONDS)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    faulthandler.dump_traceback_later(12.0 * SECONDS, exit=True, file=sys.__stderr__)  # of C, which hears no signal
    resource.setrlimit(resource.RLIMIT_AS, (used + 3 * size + SPARE, hard))
    _seen = []
    try:
        yield
        assert not _seen, f"code ran: {_seen}"
    finally:
        _seen = None
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        for number, handler in zip((signal.SIGALRM, signal.SIGPROF), before, strict=True):
            signal.signal(number, handler)
        signal.setitimer(signal.ITIMER_REAL, *left)  # of a test's own limit


def guarded(read: Callable[[], object], size: int) -> str | None:
    """Read a file; what was said where it was refused, None where it was read.

    Args:
        read: the reader; it raises ValueError, or ends with status 2 and a line on standard error.
        size: bytes of the file.

    Raises:
        AssertionError: it ran code, or what it says is no line that people can read.
        Hang: it took too long.
        Exception: anything else that it raised, which users would see as a traceback.
    """
    said = io.StringIO()
    try:
        with _limited(size), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            read()
        return None
    except SystemExit as left:
        if left.code in (0, None):
            return None
        line = said.getvalue().strip().splitlines()[-1] if left.code == 2 else f"status\n{left.code}"
    except ValueError as error:
        line = str(error)
    assert line, "nothing was said"
    assert line.isprintable(), f"not one line: {line!r}"
    assert len(line) <= LONGEST, f"{len(line)} letters: {line}"
    return line
