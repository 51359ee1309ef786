"""The name of an argument in a message: an option for who types a command, a keyword for who calls from Python."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_keywords: ContextVar[bool] = ContextVar("_keywords", default=False)
"""Whether messages name keywords; every thread has its own, so that a call in one changes no message of another."""


@contextmanager
def called_from_python() -> Iterator[None]:
    """Messages name keywords as long as the context is open; elsewhere they name options of the command line."""
    before = _keywords.set(True)
    try:
        yield
    finally:
        _keywords.reset(before)


def option(key: str, typed: str = "", given: str = "...") -> str:
    """An argument as the reader of a message can give it: `--data.resize 64`, or in Python `resize=64`.

    Args:
        key: name of the option, without dashes.
        typed: value as it is typed behind the option; nothing for the name alone.
        given: value in Python.
    """
    if _keywords.get():
        return f"{key.rpartition('.')[2]}={given}"
    return f"--{key} {typed}".rstrip()
