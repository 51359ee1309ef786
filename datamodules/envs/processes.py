"""Copies of an environment in processes of their own, whose silence, death and errors are told in one line."""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import gymnasium as gym

from datamodules.envs.gymnasium_private import QuietProcesses

RESTART_SECONDS = 60.0
"""What a process gets beyond the time limit of a step, for making an environment anew that failed."""

ENDING_SECONDS = 5.0
"""What a process gets for ending."""


class Processes(QuietProcesses):
    """Gymnasium's vector environment of processes, of which none is waited for without end.

    Args:
        makers: each makes one copy.
        name: of the environment, for errors.
        step_timeout: seconds that a step of a copy may take; 0 for no limit. A copy that interrupts itself, see
            `Restarting`, gets that long and a minute more for being made anew; what cannot be interrupted is then
            an error.
        **arguments: of `AsyncVectorEnv`.

    Raises:
        ValueError: a copy cannot be made.
    """

    def __init__(
        self, makers: Sequence[Callable[[], gym.Env]], name: str, step_timeout: float, **arguments: Any
    ) -> None:
        self.name, self.step_timeout = name, step_timeout
        self._told(lambda: super(Processes, self).__init__(makers, **arguments))

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """First observations of all copies, or of those that `options` choose.

        Raises:
            ValueError: a copy is silent for too long, or failed for good, or its process ended.
        """
        self._told(lambda: self.reset_async(seed, options))
        return self._told(lambda: self.reset_wait(self._limit))

    def step(self, actions: Any) -> tuple[Any, ...]:
        """One step of each copy.

        Raises:
            ValueError: a copy is silent for too long, or failed for good, or its process ended.
        """
        self._told(lambda: self.step_async(actions))
        return self._told(lambda: self.step_wait(self._limit))

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The attribute of this name of each copy, called if it can be.

        Raises:
            ValueError: a process ended.
        """
        return self._told(lambda: super(Processes, self).call(name, *args, **kwargs))

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of each copy.

        Raises:
            ValueError: a process ended.
        """
        self._told(lambda: super(Processes, self).set_attr(name, values))

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """End the processes at once; Gymnasium's way waits for a step that was cut short."""
        for process in getattr(self, "processes", []):
            process.terminate()
        for process in getattr(self, "processes", []):
            process.join(ENDING_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()

    @property
    def _limit(self) -> float | None:
        return self.step_timeout + RESTART_SECONDS if self.step_timeout else None

    def _told(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except multiprocessing.TimeoutError:
            silent = [str(copy) for copy, pipe in enumerate(self.parent_pipes) if not pipe.poll()]
            said = f"copy {', '.join(silent)} did not answer within step_timeout, {self.step_timeout:g} s"
        except (EOFError, ConnectionError):
            said = "a process ended; the system may have killed it, for its memory perhaps"
        self.close()
        raise ValueError(f"environment {self.name!r}: {said}")

    def raise_error(self) -> NoReturn:
        """Raise the error of a copy in one line.

        Raises:
            ValueError: always.
        """
        try:
            copy, kind, error, _ = self.error_queue.get(timeout=ENDING_SECONDS)
        except queue.Empty:  # an error that cannot be pickled
            copy, kind, error = "?", RuntimeError, "an error that cannot be told"
        self.close()
        if isinstance(error, ValueError):
            raise error
        raise ValueError(f"environment {self.name!r}: copy {copy} failed: {kind.__name__}: {error}")
