"""An environment that breaks the rules of Gymnasium on demand; registered as `rogue:Rogue-v0`."""

from __future__ import annotations

import signal
import sys
import time
from typing import Any

import gymnasium as gym
import numpy as np


class Interrupt(BaseException):
    """As careless libraries raise it."""


class Rogue(gym.Env):
    """Seen is [steps, seed]; the reward of each step is 1; an episode lasts `length` steps, from the third of which on
    the fault shows.

    Args:
        fault: what goes wrong.
        often: how many times, over all environments of this process; then all is well.
        length: of an episode; 0 for no end.
        seeds: first seeds of the episodes that have the fault; all by default.
    """

    observation_space = gym.spaces.Box(-1e9, 1e9, (2,), np.float32)
    action_space = gym.spaces.Discrete(3)
    shown = 0

    def __init__(self, fault: str = "", often: int = 10**9, length: int = 5, seeds: list[int] | None = None) -> None:
        self.fault = fault
        self.often = often
        self.length = length
        self.seeds = seeds

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        self.episode = -1 if seed is None else seed
        if self.fault == "raise in reset" and seed == 12 and Rogue.shown < self.often:
            Rogue.shown += 1
            raise ZeroDivisionError("no world")
        if self.fault == "no info":
            return self.seen()
        return self.seen(), {}

    def seen(self) -> np.ndarray:
        return np.array([self.time, self.episode], np.float32)

    def step(self, action: int) -> Any:
        self.time += 1
        ended = self.time == self.length
        result = [self.seen(), 1.0, ended, False, {"is_success": ended and self.episode % 2 == 0, "coins": self.time}]
        faulty = self.time >= 3 and Rogue.shown < self.often and (self.seeds is None or self.episode in self.seeds)
        if not faulty or self.fault in ("", "raise in reset"):
            return tuple(result)
        Rogue.shown += 1
        return self.wrong(result)

    def wrong(self, result: list[Any]) -> Any:
        if self.fault == "raise":
            raise ZeroDivisionError("the simulator fell over")
        if self.fault == "interrupt":
            raise Interrupt("stop")
        if self.fault == "exit":
            sys.exit(0)
        if self.fault == "hang":
            time.sleep(100)
        if self.fault == "hang in C":  # where no signal reaches Python
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
            time.sleep(100)
        if self.fault == "old interface":
            return result[0], 1.0, False, {}
        if self.fault == "nothing":
            return None
        changed: dict[str, tuple[int, Any]] = {
            "shape": (0, result[0][:, None]),
            "text": (0, "seen"),
            "keys": (0, {"x": result[0]}),
            "complex": (0, result[0].astype(complex)),
            "float64": (0, result[0].astype(np.float64)),
            "list": (0, result[0].tolist()),
            "nan": (0, np.array([np.nan, 0], np.float32)),
            "reward none": (1, None),
            "reward array": (1, np.ones(2)),
            "reward complex": (1, 1j),
            "reward nan": (1, float("nan")),
            "reward of shape one": (1, np.ones(1, np.float32)),
            "done none": (2, None),
            "done text": (3, "no"),
            "done number": (2, np.int64(result[2])),
            "info none": (4, None),
        }
        place, value = changed[self.fault]
        result[place] = value
        return tuple(result)


gym.register("Rogue-v0", Rogue)
gym.register("Limited-v0", Rogue, max_episode_steps=50)  # in a wrapper that stumbles over what it gets
