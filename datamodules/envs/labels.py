"""Quantities that the state of an environment says by itself, which no agent is shown, as labels of its observations.

`Labels` is the base of classes that read them; a config names one by class path, one of these or one of your own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from datamodules.envs.contract import said
from modules.trust.names import short


class Labels(ABC):
    """Reads labels off the state of an environment."""

    @abstractmethod
    def __call__(self, env: gym.Env) -> Mapping[str, float]:
        """Labels after a reset or a step, by name: `int` and `bool` for classes, `float` for amounts.

        Wrappers are taken off by `env.unwrapped`.
        """


class CatchLabels(Labels):
    """Of `datamodules.envs.toys.Catch`: row and column of the ball, and column of the paddle, as classes."""

    def __call__(self, env: gym.Env) -> dict[str, float]:
        """Labels of a board."""
        game: Any = env.unwrapped
        return {"ball_row": game.ball_row, "ball_column": game.ball_column, "paddle": game.paddle}


class CartPoleLabels(Labels):
    """Of Gymnasium's CartPole: place, velocity, angle and angular velocity, in its units, as amounts."""

    def __call__(self, env: gym.Env) -> dict[str, float]:
        """Labels of a pole on a cart."""
        game: Any = env.unwrapped
        names = ("cart_position", "cart_velocity", "pole_angle", "pole_velocity")
        return {name: float(value) for name, value in zip(names, game.state, strict=True)}


def read_labels(labels: Labels, env: gym.Env, environment: str) -> dict[str, float]:
    """Labels of the state that an environment is in: `int` for classes, `float` for amounts.

    Args:
        labels: what reads them.
        env: environment.
        environment: its name, for errors.

    Raises:
        ValueError: it fails, or returns something else than named finite numbers.
    """
    name = type(labels).__name__
    try:
        found = dict(labels(env))
    except Exception as error:  # it knows another environment, or is the user's own
        reason = short(f"{type(error).__name__}: {error}", 200)
        raise ValueError(f"labels: {name} cannot read environment {environment!r}: {reason}") from error
    if not found:
        raise ValueError(f"labels: {name} read nothing of environment {environment!r}; return named numbers")
    return {
        str(key): _number(value, f"labels: {name} of environment {environment!r}", key) for key, value in found.items()
    }


def _number(value: Any, who: str, key: Any) -> float:
    array = np.asarray(value)
    if array.shape == () and array.dtype.kind in "biu":
        return int(array)
    if array.shape == () and array.dtype.kind == "f" and np.isfinite(array):
        return float(array)
    raise ValueError(f"{who} must be finite numbers, and {short(str(key), 40)} is {said(value)}")
