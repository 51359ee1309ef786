"""An environment that is made anew when it fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym

from datamodules.envs.snapshot import SnapshotError, capture, restore

RESTARTED = "restarted"
"""Key of the info in which a replacement is announced, with the error as text."""


class Restarting(gym.Wrapper):
    """Ends the episode and makes the environment anew when `step` or `reset` raises, a bounded number of times.

    The last observation of such an episode is the one before the failure, with `truncated`. Infos are dropped, as no
    learner reads them; collecting them from many copies costs more time than the steps of a small environment.

    Args:
        make: makes the environment.
        max_restarts: failures that are forgiven.
        name: of the environment, for the error.
    """

    def __init__(self, make: Callable[[], gym.Env], max_restarts: int, name: str) -> None:
        super().__init__(make())
        self._make, self._max_restarts, self._name = make, max_restarts, name
        self._failures = 0
        self._seed = 0
        self._next_seed: int | None = None
        self._last: Any = None
        self._flags = (False, False)
        self._repeat = False
        self._not_restored: str | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """First observation of an episode, of a new copy if need be.

        Raises:
            ValueError: the environment failed more often than is forgiven.
        """
        if seed is not None:
            self._seed = seed
        info: dict[str, Any] = {}
        while True:
            try:
                self._last, _ = self.env.reset(seed=self._next_seed if seed is None else seed, options=options)
            except Exception as error:
                info, seed = self._replace("reset", error), None
            else:
                self._next_seed, self._flags = None, (False, False)
                return self._last, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step, or the end of an episode that failed.

        Raises:
            ValueError: the environment failed more often than is forgiven.
        """
        if self._repeat:
            self._repeat = False
            return self._last, 0.0, *self._flags, {}
        try:
            self._last, reward, terminated, truncated, _ = self.env.step(action)
        except Exception as error:
            self._flags = (False, True)
            return self._last, 0.0, False, True, self._replace("step", error)
        self._flags = (terminated, truncated)
        return self._last, float(reward), terminated, truncated, {}

    def take_snapshot(self) -> dict[str, Any] | str:
        """State between two steps, see `datamodules.envs.snapshot`, or why it cannot be captured."""
        try:
            environment = capture(self.env)
        except SnapshotError as error:
            return str(error)
        terminated, truncated = (bool(flag) for flag in self._flags)
        return {
            "environment": environment,
            "flags": [terminated, truncated],
            "failures": self._failures,
            "seeds": [self._seed, self._next_seed],
        }

    @property
    def snapshot(self) -> str | None:
        """Why the snapshot that was assigned last could not be restored, or None.

        After an assignment, the next `step` does nothing and says again whether the episode has ended, for a vector
        environment to know. (A vector environment can assign attributes copy by copy, but not call with arguments.)
        """
        return self._not_restored

    @snapshot.setter
    def snapshot(self, value: dict[str, Any]) -> None:
        self._not_restored = None
        try:
            restore(self.env, value["environment"])
        except SnapshotError as error:
            self._not_restored = str(error)
        terminated, truncated = value["flags"]
        self._flags = (terminated, truncated)
        self._failures, (self._seed, self._next_seed) = value["failures"], value["seeds"]
        self._repeat = True

    def _replace(self, where: str, error: Exception) -> dict[str, Any]:
        self._failures += 1
        said = f"{type(error).__name__}: {error}"
        if self._failures > self._max_restarts:
            times = "" if self._failures == 1 else f" for the {self._failures}th time"
            raise ValueError(f"environment {self._name!r} failed in {where}{times}: {said}") from error
        self.env = self._make()  # the old one may hang on closing
        self._next_seed = self._seed + 1_000_003 * self._failures  # not the same episodes over again
        return {RESTARTED: f"in {where}: {said}"}
