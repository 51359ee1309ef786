"""An environment whose every step is checked and timed, and that is made anew when it fails."""

from __future__ import annotations

import functools
import logging
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from datamodules.envs.contract import Contract, plain_array
from datamodules.envs.episode_infos import EPISODE, episode_numbers
from datamodules.envs.snapshot import SnapshotError, capture, restore
from datamodules.envs.time_limit import StepTimeout, can_interrupt, within
from modules.arguments.checks import check_counts, check_ranges
from modules.stop import Stop

_log = logging.getLogger(__name__)

RESTARTED = "restarted"
"""Key of the info in which a replacement is announced, with the error as text."""

STEP_TIMEOUT = 300.0
"""Seconds that a step may take in another process, where nothing else is asked for."""

NOTHING = object()

LONGEST = 200
"""Characters of an environment's error that a message shows, at most."""


@dataclass(frozen=True)
class Protection:
    """Protection of a run from the failures of an environment.

    Attributes:
        max_restarts: number of failures of an environment that are forgiven: it is made anew.
        step_timeout: seconds that one `step` or `reset` may take, which then counts as a failure; 0 for no limit. It
            holds for what Python can interrupt, see `datamodules.envs.time_limit.within`.
        same_episodes: after a failure, `reset` without a seed starts the same episode again, and `max_restarts` counts
            the failures of one episode, as an evaluation needs it. Otherwise other episodes follow, so that no agent
            learns from the same one over and over, and all failures of an environment count.
        infos: names of further numbers in the last info of an episode that are passed on, see `episode_numbers`.
    """

    max_restarts: int = 3
    step_timeout: float = 0.0
    same_episodes: bool = False
    infos: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_counts(0, max_restarts=self.max_restarts)
        check_ranges(("step_timeout", self.step_timeout, 0.0, 1e9))


def make_protection(
    max_restarts: int, step_timeout: float | None, infos: Sequence[str] | None, vectorization: str, collection: str
) -> Protection:
    """Protection of environments that are collected from.

    Args:
        max_restarts: see `Protection`.
        step_timeout: see `Protection`; None for `STEP_TIMEOUT` in other processes than the one that learns, and for no
            limit in that one.
        infos: see `Protection`.
        vectorization: kind of vector environment, see `datamodules.played.setting.make_environments`.
        collection: kind of collection, see `datamodules.played.kinds.make_collection`.

    Raises:
        ValueError: a number is negative.
    """
    default = STEP_TIMEOUT if vectorization == "async" or collection != "inline" else 0.0
    return Protection(max_restarts, default if step_timeout is None else step_timeout, infos=tuple(infos or ()))


class Restarting(gym.Wrapper):
    """Checks every step, ends the episode and makes the environment anew when it fails, a bounded number of times.

    A failure is any error that `step` or `reset` raises, `SystemExit` included; Ctrl-C and signals that end the run are
    none. The last observation of such an episode is the one before the failure, with `truncated`. A result that breaks
    Gymnasium's interface or the environment's own spaces is not forgiven. Infos are dropped, but for the numbers of the
    last step, as no learner reads them; collecting them from many environments costs more time than the steps of a
    small one.

    Args:
        make: function that makes the environment.
        protection: failures that are forgiven, and the time limit.
        name: name of the environment, for errors.
    """

    def __init__(self, make: Callable[[], gym.Env], protection: Protection, name: str) -> None:
        super().__init__(make())
        self._make = make
        self._protection = protection
        self._name = name
        self._contract = Contract(name, self.env.observation_space)
        self._dtype, self._shape = plain_array(self.env.observation_space)
        self._limit = protection.step_timeout if can_interrupt() else 0.0
        self._step = self._timed_step()
        self._failures = 0
        self._seed = 0
        self._next_seed: int | None = None
        self._last: Any = None
        self._flags = (False, False)
        self._repeat = False
        self._not_restored: str | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """First observation of an episode, of an environment that is made anew if need be.

        Raises:
            ValueError: the environment failed more often than is forgiven, or breaks its contract.
        """
        if seed is not None:
            self._seed = seed
        info: dict[str, Any] = {}
        while True:
            chosen = self._next_seed if seed is None else seed
            begin = functools.partial(self.env.reset, seed=chosen, options=options)
            try:
                result = within(self._limit, begin) if self._limit else begin()
            except (KeyboardInterrupt, Stop):
                raise
            except BaseException as error:
                self._blame_environment(error, functools.partial(_reset, chosen), Contract.of_reset)
                info, seed = self._replace("reset", error), None
            else:
                self._last, _ = self._contract.of_reset(result)
                self._next_seed = None
                self._flags = (False, False)
                return self._last, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step, or the end of an episode that failed.

        Raises:
            ValueError: the environment failed more often than is forgiven, or breaks its contract.
        """
        if self._repeat:
            self._repeat = False
            return self._last, 0.0, *self._flags, {}
        result: Any = NOTHING
        try:
            result = observation, reward, terminated, truncated, info = self._step(action)
        except (KeyboardInterrupt, Stop):
            raise
        except BaseException as error:
            if result is NOTHING:
                return self._failed_step(action, error)
        else:
            # Most steps pass this test, in a quarter of a microsecond; the contract looks at all others.
            if (
                terminated is False
                and truncated is False
                and type(reward) is float
                and type(observation) is np.ndarray
                and observation.dtype is self._dtype
                and observation.shape == self._shape
                and type(info) is dict
            ):
                self._last = observation
                return observation, reward, False, False, {}
        self._last, reward, terminated, truncated, info = self._contract.of_step(result)
        self._flags = (terminated, truncated)
        last = self._last_info(info) if terminated or truncated else {}
        return self._last, float(reward), terminated, truncated, last

    def _timed_step(self) -> Callable[[Any], Any]:
        return functools.partial(within, self._limit, self.env.step) if self._limit else self.env.step

    def _failed_step(self, action: Any, error: BaseException) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._blame_environment(error, lambda base: base.step(action), Contract.of_step)
        self._flags = (False, True)
        return self._last, 0.0, False, True, self._replace("step", error)

    def close(self) -> None:
        """Close the environment; errors are only logged, since nothing depends on it any more."""
        try:
            self.env.close()
        except Exception as error:
            _log.debug("environment %r failed in close: %s", self._name, error)

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
        environment to know. (A vector environment can assign attributes one by one, but not call with arguments.)
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

    def _last_info(self, info: dict[str, Any]) -> dict[str, Any]:
        if self._protection.same_episodes:
            self._failures = 0
        numbers = episode_numbers(info, self._protection.infos) if info else {}
        return {EPISODE: tuple(numbers.items())} if numbers else {}

    def _blame_environment(
        self, error: BaseException, call: Callable[[gym.Env], Any], check: Callable[[Contract, Any], Any]
    ) -> None:
        """Say what the innermost environment returns wrongly, where a wrapper around it stumbled over that.

        Raises:
            ContractError: it breaks its contract.
        """
        base = self.env.unwrapped
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        if base is self.env or not isinstance(error, Exception) or any(f.f_locals.get("self") is base for f in frames):
            return
        again = functools.partial(call, base)
        try:
            result = within(self._limit, again) if self._limit else again()
        except Stop:
            raise
        except (Exception, SystemExit, StepTimeout):  # it is not what it returns, then
            return
        check(Contract(self._name, base.observation_space), result)

    def _replace(self, where: str, error: BaseException) -> dict[str, Any]:
        self._failures += 1
        text = " ".join(str(error).split())
        problem = f"{type(error).__name__}: {text if len(text) < LONGEST else f'{text[:LONGEST]}...'}"
        episode = f", in the episode of seed {self._seed}" if self._protection.same_episodes else ""
        if self._failures > self._protection.max_restarts:
            times = "" if self._failures == 1 else f" for the {ordinal(self._failures)} time"
            raise ValueError(f"environment {self._name!r} failed in {where}{times}{episode}: {problem}") from error
        try:
            self.env = self._make()  # the old one may hang on closing
        except Exception as again:
            message = (
                f"environment {self._name!r} failed in {where}{episode}: {problem}; it cannot be made anew: {again}"
            )
            raise ValueError(message) from again
        self._step = self._timed_step()
        other = 0 if self._protection.same_episodes else 1_000_003 * self._failures  # not the same episodes over again
        self._next_seed = self._seed + other
        return {RESTARTED: f"in {where}{episode}: {problem}"}


def _reset(seed: int | None, env: gym.Env) -> Any:
    return env.reset(seed=seed)


def ordinal(count: int) -> str:
    """`1st`, `2nd`, `3rd`, `4th`."""
    ending = "th" if count % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(count % 10, "th")
    return f"{count}{ending}"
