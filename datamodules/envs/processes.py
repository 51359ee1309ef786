"""Environments in processes of their own, whose silence, death and errors are reported in one line."""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import gymnasium as gym

from datamodules.envs.gymnasium_private import QuietProcesses

RESTART_SECONDS = 60.0
"""Seconds that a process gets beyond the time limit of a step, for making an environment anew that failed."""

ENDING_SECONDS = 5.0
"""Seconds that a process gets for ending."""


class Processes(QuietProcesses):
    """Gymnasium's vector environment of processes, of which none is waited for without end.

    Args:
        makers: functions that make one environment each.
        name: name of the environment, for errors.
        step_timeout: seconds that a step of one environment may take; 0 for no limit. An environment that interrupts
            itself, see `Restarting`, gets that long and a minute more for being made anew; one that cannot be
            interrupted is then an error.
        **arguments: further arguments of `AsyncVectorEnv`.

    Raises:
        ValueError: an environment cannot be made.
    """

    def __init__(
        self, makers: Sequence[Callable[[], gym.Env]], name: str, step_timeout: float, **arguments: Any
    ) -> None:
        self.name = name
        self.step_timeout = step_timeout
        self._reported(lambda: super(Processes, self).__init__(makers, **arguments))

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """First observations of all environments, or of those that `options` choose.

        Raises:
            ValueError: an environment is silent for too long, or failed for good, or its process ended.
        """
        self._reported(lambda: self.reset_async(seed, options))
        return self._reported(lambda: self.reset_wait(self._limit))

    def step(self, actions: Any) -> tuple[Any, ...]:
        """One step of each environment.

        Raises:
            ValueError: an environment is silent for too long, or failed for good, or its process ended.
        """
        self._reported(lambda: self.step_async(actions))
        return self._reported(lambda: self.step_wait(self._limit))

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The attribute of this name of each environment, called if it can be.

        Raises:
            ValueError: a process ended.
        """
        return self._reported(lambda: super(Processes, self).call(name, *args, **kwargs))

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of each environment.

        Raises:
            ValueError: a process ended.
        """
        self._reported(lambda: super(Processes, self).set_attr(name, values))

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

    def _reported(self, ask: Callable[[], Any]) -> Any:
        """The result of a call; silence or death of a process is an error of one line."""
        try:
            return ask()
        except multiprocessing.TimeoutError:
            silent = [str(index) for index, pipe in enumerate(self.parent_pipes) if not pipe.poll()]
            problem = f"environment {', '.join(silent)} did not answer within step_timeout, {self.step_timeout:g} s"
        except (EOFError, ConnectionError):
            problem = "a process ended; the system may have killed it, for its memory perhaps"
        self.close()
        raise ValueError(f"environment {self.name!r}: {problem}")

    def raise_error(self) -> NoReturn:
        """Raise the error of an environment in one line.

        Raises:
            ValueError: always.
        """
        try:
            index, kind, error, _ = self.error_queue.get(timeout=ENDING_SECONDS)
        except queue.Empty:  # an error that cannot be pickled
            index, kind, error = "?", RuntimeError, "an error that cannot be pickled"
        self.close()
        if isinstance(error, ValueError):
            raise error
        raise ValueError(f"environment {self.name!r}: environment {index} failed: {kind.__name__}: {error}")
