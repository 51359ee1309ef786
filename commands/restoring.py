"""Errors while Lightning restores what a checkpoint holds, which are the file's and not those of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from commands.messages import told
from modules.agent.lightning_private import was_restoring
from modules.trust.names import short


@contextmanager
def restoring_named(path: Callable[[], str | None]) -> Iterator[None]:
    """Within, an error of restoring that nobody foresaw names the file; any other error stays what it is.

    Args:
        path: path of the checkpoint, asked for when it is needed.

    Raises:
        ValueError: Lightning cannot restore what the file holds.
    """
    try:
        yield
    except Exception as error:
        if told(error) is not None or not was_restoring(error):
            raise
        reason = short(f"{type(error).__name__}: {error}".split("\n", 1)[0], 200)
        raise ValueError(
            f"checkpoint {path()} is damaged: what it holds cannot be restored ({reason}); use another one"
        ) from error
