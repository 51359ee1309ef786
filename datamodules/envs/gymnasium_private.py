"""Everything private of Gymnasium that this project uses, with the reason; no other file names any of it.

tests/datamodules/envs/test_gymnasium_private.py fails where an upgrade of Gymnasium changes what it relies on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

from gymnasium.vector import AsyncVectorEnv


class QuietProcesses(AsyncVectorEnv):
    """Gymnasium's vector environment of processes, in which a subclass says how an error in one of them is raised.

    The public methods print the whole traceback of that process on an error stream first, and wait without end for
    an error that cannot be pickled.
    """

    def _raise_if_errors(self, successes: Iterable[bool]) -> None:
        if not all(successes):
            self.raise_error()

    def raise_error(self) -> NoReturn:
        """Raise what is in `error_queue`: `(index, class, error, traceback)` of each process that failed."""
        raise NotImplementedError
