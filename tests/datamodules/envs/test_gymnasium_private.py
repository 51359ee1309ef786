"""The private parts of Gymnasium that this project uses do what it relies on; upgrades that change them fail here."""

from __future__ import annotations

from typing import NoReturn

import gymnasium as gym
import numpy as np
import pytest

from datamodules.envs.gymnasium_private import QuietProcesses


class Fails(gym.Env):
    observation_space = gym.spaces.Box(-1.0, 1.0, (2,))
    action_space = gym.spaces.Box(-1.0, 1.0, (1,))

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        return np.zeros(2, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        raise ZeroDivisionError("in step")


class Told(QuietProcesses):
    def raise_error(self) -> NoReturn:
        copy, kind, error, _ = self.error_queue.get(timeout=10)
        raise ValueError(f"{copy} {kind.__name__} {error}")


def test_an_error_in_a_process_is_raised_by_the_subclass_alone(capfd: pytest.CaptureFixture[str]) -> None:
    played = Told([Fails])
    try:
        played.reset()
        capfd.readouterr()
        with pytest.raises(ValueError, match="0 ZeroDivisionError in step"):
            played.step(np.zeros((1, 1), np.float32))
    finally:
        played.close(terminate=True)
    assert "Traceback" not in capfd.readouterr().err
