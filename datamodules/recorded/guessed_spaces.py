"""Spaces guessed from the data of a source that names no environment, and what a person should know about the guess."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from datamodules.envs.plain_actions import MOST_CHOICES
from datamodules.recorded.checks import BOUND_TOLERANCE
from datamodules.recorded.description import Description


def guess_observation_space(description: Description) -> gym.Space:
    """Bytes stay bytes, with bounds 0 and 255; all other numbers are real and unbounded.

    Raises:
        ValueError: observations are integers `[N]`, which number states.
    """
    first = next(iter(description.chunks())).observation
    shape = first.shape[1:] or (1,)
    if first.dtype == np.uint8 and first.ndim > 1:
        return gym.spaces.Box(0, 255, shape, np.uint8)
    if first.ndim == 1 and not np.issubdtype(first.dtype, np.floating):
        raise ValueError(
            f"{description.location}: observations are integers [N], numbers of states that a network would take "
            "for sizes; store them one-hot as floats [N, D], or real measurements as floats [N, 1]"
        )
    if not np.issubdtype(first.dtype, np.floating):
        description.note(f"observations of type {first.dtype} are read as real numbers")
    return gym.spaces.Box(-np.inf, np.inf, shape, np.float32)


def guess_action_space(description: Description) -> gym.Space:
    """Choices where actions are one column of integers, else a box, by one pass over the data.

    Raises:
        ValueError: the actions are several columns of integers, or one-hot rows, or too many different integers.
    """
    lows, highs, one_hot, whole = [], [], True, True
    for chunk in description.chunks():
        actions = chunk.action.reshape(len(chunk.action), -1)
        lows.append(actions.min(0))
        highs.append(actions.max(0))
        one_hot = one_hot and bool((((actions == 0) | (actions == 1)).all(1) & (actions.sum(1) == 1)).all())
        whole = whole and bool((np.floor(actions) == actions).all())
    low, high, shape = np.stack(lows).min(0), np.stack(highs).max(0), chunk.action.shape[1:] or (1,)
    if not np.issubdtype(chunk.action.dtype, np.floating):
        return _choices(description, low, high)
    if one_hot and len(low) > 1:
        raise ValueError(
            f"{description.location}: every row of actions is one-hot: store choices as integers [N], "
            "actions.argmax(1), or give action_space if they are real numbers"
        )
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return gym.spaces.Box(-np.inf, np.inf, shape, np.float32)  # the check that follows names the row
    if whole:
        description.note(
            "all actions are whole numbers stored as floats, read as real numbers; store choices as integers"
        )
    return _box(description, low, high, shape)


def _choices(description: Description, low: np.ndarray, high: np.ndarray) -> gym.Space:
    if len(low) > 1:
        raise ValueError(
            f"{description.location}: actions are {len(low)} columns of integers, several choices at once "
            "(MultiDiscrete), which no agent takes; number the combinations in one column, or store real "
            "numbers as floats"
        )
    smallest, largest = int(low[0]), int(high[0])
    if smallest < 0 or largest >= MOST_CHOICES:
        raise ValueError(
            f"{description.location}: actions are integers from {smallest} to {largest}; choices are numbered "
            f"from 0 and below {MOST_CHOICES}; store real numbers as floats"
        )
    description.note(f"action space guessed from the data: {largest + 1} choices, 0 to {largest}")
    return gym.spaces.Discrete(largest + 1)


def _box(description: Description, low: np.ndarray, high: np.ndarray, shape: tuple[int, ...]) -> gym.Space:
    """[-1, 1] where all actions fit, else the bounds of the data, rounded where that is within rounding."""
    widen = "give action_space if the true bounds are wider"
    if (low >= -1 - BOUND_TOLERANCE).all() and (high <= 1 + BOUND_TOLERANCE).all():
        description.note(f"action bounds guessed: [-1, 1], because all actions fit; {widen}")
        return gym.spaces.Box(-1.0, 1.0, shape, np.float32)
    low, high = _rounded(low), _rounded(high)
    span = f"{low.min():.6g} to {high.max():.6g}"
    description.note(f"action bounds guessed: smallest and largest value of each component, {span}; {widen}")
    low, high = (bound.astype(np.float32).reshape(shape) for bound in (low, high))
    return gym.spaces.Box(low, high, dtype=np.float32)


def _rounded(bound: np.ndarray) -> np.ndarray:
    """Bounds, with those moved to a number of one digit that are there but for rounding: 1.99999 becomes 2."""
    size = np.abs(bound).astype(np.float64)
    unit = 10.0 ** np.floor(np.log10(np.where(size > 0, size * (1 + BOUND_TOLERANCE), 1.0)))
    near = np.round(bound / unit) * unit
    return np.where(np.abs(near - bound) <= BOUND_TOLERANCE * size, near, bound)
