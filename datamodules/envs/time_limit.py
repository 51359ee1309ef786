"""A limit on the seconds that one call of an environment takes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any


class StepTimeout(BaseException):
    """A call took too long; no `Exception`, so that the `except` of an environment does not swallow it."""


def can_interrupt() -> bool:
    """Whether `within` works here: signals reach the main thread alone, and not every system has timers."""
    return hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()


def within(seconds: float, call: Callable[..., Any], *arguments: Any) -> Any:
    """The call's result, if it comes in time.

    A timer's signal interrupts the call between two instructions of Python and in system calls such as sleeping and
    reading. Code in C that neither returns nor calls Python is not interrupted: only a process of its own can be ended
    then. A timer that was running goes on afterwards.

    Raises:
        StepTimeout: the call took longer.
    """

    def interrupt(number: int, frame: Any) -> None:
        raise StepTimeout(f"it took longer than {seconds:g} s")

    handler = signal.signal(signal.SIGALRM, interrupt)
    running = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return call(*arguments)
    finally:
        signal.setitimer(signal.ITIMER_REAL, *running)
        signal.signal(signal.SIGALRM, handler)
