"""Actions of any kind as the kinds that agents give: a number, numbers `[G]`, or a flat box of floats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from datamodules.envs.plain import below

MOST_CHOICES = 1 << 16
"""Choices of all numbers of an action together."""

Flat = spaces.MultiDiscrete | spaces.Box


class PlainActions(gym.ActionWrapper, gym.utils.RecordConstructorArgs):
    """The environment with actions of the kinds that agents give, see `plain_action_space`."""

    def __init__(self, env: gym.Env) -> None:
        gym.utils.RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        plain = plain_action_space(env.action_space)
        self.action_space = env.action_space if plain is None else plain

    def action(self, action: np.ndarray) -> Any:
        """The action as the environment takes it."""
        return _rebuilt(self.env.action_space, iter(np.asarray(action).reshape(-1).tolist()).__next__)


def plain_actions(env: gym.Env) -> gym.Env:
    """The environment itself where its actions are plain already, or have no plain form, else in a `PlainActions`."""
    return env if plain_action_space(env.action_space) is None else PlainActions(env)


def plain_action_space(space: gym.Space) -> Flat | None:
    """A MultiDiscrete `[G]` or a Box `[A]` of floats for the actions of a space.

    Discrete, MultiDiscrete, MultiBinary and bounded boxes of integers, of any shape, in Dict and Tuple however deep,
    become a MultiDiscrete; boxes of floats become a flat one. None for what is plain, and for what is mixed or of
    another kind.
    """
    if isinstance(space, spaces.Discrete) or (isinstance(space, Flat) and len(space.shape) == 1 and _is_plain(space)):
        return None
    parts = _flat_parts(space)
    if parts is None or len({type(part) for part in parts}) != 1:
        return None
    if all(isinstance(part, spaces.Box) for part in parts):
        low, high = (
            np.concatenate([getattr(part, end).astype(np.float32) for part in parts]) for end in ("low", "high")
        )
        return spaces.Box(low, high, dtype=np.float32)
    sizes, starts = (np.concatenate([getattr(part, name) for part in parts]) for name in ("nvec", "start"))
    return spaces.MultiDiscrete(sizes, start=starts) if sizes.sum() <= MOST_CHOICES else None


def _is_plain(space: Flat) -> bool:
    return isinstance(space, spaces.MultiDiscrete) or np.issubdtype(space.dtype, np.floating)


def _flat_parts(space: gym.Space) -> list[Flat] | None:
    """The parts that are no Dict or Tuple, each as numbers or as a box; None where one is of another kind."""
    inside = below(space)
    if inside is None:
        part = _flat_part(space)
        return None if part is None else [part]
    found: list[Flat] = []
    for _, inner in inside:
        parts = _flat_parts(inner)
        if parts is None:
            return None
        found += parts
    return found


def _flat_part(space: gym.Space) -> Flat | None:
    if isinstance(space, spaces.Discrete):
        return spaces.MultiDiscrete([int(space.n)], start=[int(space.start)])
    if isinstance(space, spaces.MultiDiscrete):
        return spaces.MultiDiscrete(space.nvec.reshape(-1), start=np.asarray(space.start).reshape(-1))
    if isinstance(space, spaces.MultiBinary):
        return spaces.MultiDiscrete([2] * int(np.prod(space.shape)))
    if not isinstance(space, spaces.Box):
        return None
    if np.issubdtype(space.dtype, np.floating):
        return spaces.Box(space.low.reshape(-1), space.high.reshape(-1), dtype=space.dtype.type)
    low, high = (end.reshape(-1).astype(np.int64) for end in (space.low, space.high))
    if (high.astype(float) - low.astype(float)).sum() > MOST_CHOICES:
        return None
    return spaces.MultiDiscrete(high - low + 1, start=low)


def _rebuilt(space: gym.Space, following: Callable[[], Any]) -> Any:
    """An action of this space of the numbers that follow, in the order of `_flat_parts`."""
    if isinstance(space, spaces.Dict):
        return {key: _rebuilt(part, following) for key, part in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_rebuilt(part, following) for part in space)
    if isinstance(space, spaces.Discrete):
        return int(following())
    assert space.shape is not None
    numbers = [following() for _ in range(int(np.prod(space.shape)))]
    return np.array(numbers, space.dtype).reshape(space.shape)
