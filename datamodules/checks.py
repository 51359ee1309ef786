"""Checks on the steps of a dataset; each failure names the file, the field and the row."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from datamodules.record import Chunk

# Stored actions went through float32 and through clipping in float64: allow that much outside the bounds.
BOUND_TOLERANCE = 1e-5


def check_chunk(chunk: Chunk, first_row: int, location: str, observation: gym.Space, action: gym.Space) -> None:
    """Refuse steps that no learner should see.

    Args:
        chunk: the steps.
        first_row: row of the first step in the file.
        location: file that the message names.
        observation: space that observations must have the shape of.
        action: space that actions must lie in.

    Raises:
        ValueError: a shape differs from the space, a value is NaN or infinite, or an action is outside its space.
    """
    _check_shape(location, "observations", chunk.observation, observation)
    _check_shape(location, "next observations", chunk.next_observation, observation)
    _check_shape(location, "actions", chunk.action, action)
    for field, values, rows in (
        ("observations", chunk.observation, None),
        ("actions", chunk.action, None),
        ("rewards", chunk.reward, None),
        ("next observations", chunk.next_observation, chunk.usable),
    ):
        _check_finite(location, field, values, first_row, rows)
    if isinstance(action, gym.spaces.Discrete):
        outside = (chunk.action < action.start) | (chunk.action >= action.start + action.n)
        low, high = action.start, action.start + action.n - 1
    else:
        assert isinstance(action, gym.spaces.Box)
        low, high = action.low, action.high
        slack = BOUND_TOLERANCE * np.maximum(1.0, np.maximum(np.abs(low), np.abs(high)))
        outside = ((chunk.action < low - slack) | (chunk.action > high + slack)).reshape(len(chunk.action), -1).any(1)
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        raise ValueError(
            f"{location}: actions row {first_row + row} is {_short(chunk.action[row])}, outside the action space "
            f"[{_short(low)}, {_short(high)}]; {int(outside.sum())} such rows in this part of the file"
        )


def _check_shape(location: str, field: str, values: np.ndarray, space: gym.Space) -> None:
    if values.shape[1:] != space.shape:
        raise ValueError(
            f"{location}: {field} has rows of shape {values.shape[1:]}, the space {space} has {space.shape}"
        )


def _check_finite(location: str, field: str, values: np.ndarray, first_row: int, rows: np.ndarray | None) -> None:
    if not np.issubdtype(values.dtype, np.floating):
        return
    with np.errstate(over="ignore"):
        bad = ~np.isfinite(values.astype(np.float32, copy=False)).reshape(len(values), -1).all(1)
    if rows is not None:
        bad &= rows
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"{location}: {field} row {first_row + row} is not finite in float32 ({_short(values[row])}); "
            f"{int(bad.sum())} such rows in this part of the file"
        )


def _short(values: object) -> str:
    return np.array2string(np.asarray(values), precision=4, threshold=8, separator=", ")
