"""Importing torch, Lightning and friends without a third of the time that it takes otherwise."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

SIGNAL = "scipy.signal"


@contextmanager
def quick_imports() -> Iterator[None]:
    """Inside, imports run without the garbage collector and without `scipy.signal`.

    The collector would look through millions of objects that stay, for a second. torchmetrics, which Lightning imports,
    loads `scipy.signal`, for another second, only to see whether it has an old name; it sees one here. Whoever imports
    `scipy.signal` afterwards gets the real one.
    """
    placeholder = ModuleType(SIGNAL)
    placeholder.hamming = None  # type: ignore[attr-defined]
    sys.modules.setdefault(SIGNAL, placeholder)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        if sys.modules[SIGNAL] is placeholder:
            del sys.modules[SIGNAL]
