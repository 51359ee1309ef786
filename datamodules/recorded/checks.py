"""Checks on the steps of a dataset; each failure names the file, the field and the row."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from datamodules.recorded.description import Chunk
from modules.trust.names import short

# Stored actions went through float32, float16 or arithmetic: so much outside the bounds is rounding, and is clipped.
BOUND_TOLERANCE = 1e-4
# Squares of larger values, summed over a batch or discounted over thousands of steps, leave float32.
LARGEST_REAL = np.float32(1e15)
# Larger integers are not all told apart in float32.
LARGEST_INTEGER = 1 << 24


def as_flags(values: np.ndarray, location: str, field: str, first_row: int = 0) -> np.ndarray:
    """Flags of any numeric type as bool `[n]`.

    Args:
        values: `[n]` or `[n, 1]`.
        location: file that the message names.
        field: name of the field.
        first_row: row of the first value in the file.

    Raises:
        ValueError: a value is neither 0 nor 1, or there is not one per row.
    """
    if values.size != len(values):
        raise ValueError(f"{location}: {field} has shape {values.shape}, one value per row is needed")
    flat = values.reshape(len(values))
    numbers = np.ascontiguousarray(flat).view(np.uint8) if flat.dtype == bool else flat  # a byte of 2 is no bool
    bad = (numbers != 0) & (numbers != 1)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"{location}: {field} row {first_row + row} is {numbers[row]}, a flag is 0 or 1; {int(bad.sum())} such rows"
        )
    return flat.astype(bool)


def check_same_rows(location: str, field: str, values: Any, observations: Any) -> None:
    """Refuse observations in two shapes or units: bytes beside floats are hardly ever the same.

    Args:
        location: file that the message names.
        field: name of `values`.
        values: other observations, an array or an HDF5 dataset.
        observations: the observations before the actions.

    Raises:
        ValueError: shapes of rows differ, or types that are not both floating point.
    """
    if values.shape[1:] != observations.shape[1:]:
        raise ValueError(
            f"{location}: {field} has rows of shape {values.shape[1:]}, the observations of {observations.shape[1:]}"
        )
    if values.dtype != observations.dtype and {values.dtype.kind, observations.dtype.kind} != {"f"}:
        raise ValueError(
            f"{location}: {field} is of type {short(str(values.dtype))}, the observations of "
            f"{short(str(observations.dtype))}; "
            "store both as one type"
        )


def check_observations(
    values: np.ndarray, space: gym.Space, location: str, field: str, first_row: int, counted: np.ndarray | None = None
) -> np.ndarray:
    """Refuse observations that no learner should see.

    Args:
        values: `[n, ...]` observations, or one part of them.
        space: space that they must have the shape of.
        location: file that the message names.
        field: name of the field.
        first_row: row of the first value in the file.
        counted: `[n]` bool, those that are ever read; None for all.

    Returns:
        The values in the shape of the space: a column of numbers where it has shape `[1]`, `[n]` where it has none.

    Raises:
        ValueError: the shape differs from the space, a value is NaN, infinite or too large for float32, or has no place
            in an integer space.
    """
    values = _shaped(location, field, values, space)
    if is_real(space):
        _check_size(location, field, values, first_row, counted)
    else:
        _check_whole(location, field, values, space, first_row)
    return values


def check_played(chunk: Chunk, first_row: int, location: str, action: gym.Space) -> Chunk:
    """Refuse actions and rewards that no learner should see.

    Args:
        chunk: the steps.
        first_row: row of the first step in the file.
        location: file that the message names.
        action: space that actions must lie in.

    Returns:
        The steps with actions in the shape of the space: a column of numbers where it has shape `[1]`, whole numbers
        `[n]` where it is discrete.

    Raises:
        ValueError: a shape differs from the space, a value is NaN, infinite or too large for float32, or an action is
            outside its space.
    """
    chunk = chunk._replace(action=_shaped(location, "actions", chunk.action, action))
    _check_size(location, "rewards", chunk.reward, first_row, None)
    if not is_real(action):
        _check_whole(location, "actions", chunk.action, action, first_row)
    else:
        _check_size(location, "actions", chunk.action, first_row, None)
        assert isinstance(action, gym.spaces.Box)
        low, high, slack = action.low, action.high, _rounding(action)
        _refuse(
            (chunk.action < low - slack) | (chunk.action > high + slack),
            f"outside the action space [{_array_text(low)}, {_array_text(high)}]",
            location,
            "actions",
            chunk.action,
            first_row,
        )
    return chunk


def outside_bounds(chunk: Chunk, first_row: int, location: str, space: gym.Space) -> np.ndarray:
    """`[n]` bool: observations outside the bounds of their space, which is worth a note.

    Raises:
        ValueError: they are integers, so that they are in other units than the space: bytes beside [0, 1].
    """
    values = chunk.observation
    if not isinstance(space, gym.spaces.Box) or not is_real(space):
        return np.zeros(len(values), dtype=bool)
    if not (space.bounded_below | space.bounded_above).any():
        return np.zeros(len(values), dtype=bool)
    slack = _rounding(space)
    bad = (values < space.low - slack) | (values > space.high + slack)
    if not np.issubdtype(values.dtype, np.floating):
        _refuse(bad, f"an integer outside the observation space {space}", location, "observations", values, first_row)
    return _in_row(bad)


def _rounding(space: gym.spaces.Box) -> np.ndarray:
    """Distance outside its bounds up to which a number is taken for one on them, in the shape of the space."""
    sizes = [np.where(np.isfinite(bound), np.abs(bound), 0.0) for bound in (space.low, space.high)]
    return BOUND_TOLERANCE * np.maximum(*sizes)


def is_real(space: gym.Space) -> bool:
    """Whether values of a space are real numbers, which are kept in float32."""
    return isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating)


def _shaped(location: str, field: str, values: np.ndarray, space: gym.Space) -> np.ndarray:
    if space.shape == (1,) and values.ndim == 1:
        values = values[:, None]
    if space.shape == () and values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.shape[1:] != space.shape:
        raise ValueError(
            f"{location}: {field} has rows of shape {values.shape[1:]}, the space {space} has {space.shape}"
        )
    return values


def _check_size(location: str, field: str, values: np.ndarray, first_row: int, rows: np.ndarray | None) -> None:
    """Refuse what float32 cannot hold or no learner can square."""
    if not np.issubdtype(values.dtype, np.floating):
        if values.dtype.itemsize > 2:
            bad = (values > LARGEST_INTEGER) | (values < -LARGEST_INTEGER)
            _refuse(bad, "an integer that float32 cannot hold exactly", location, field, values, first_row)
        return
    if values.min() >= -LARGEST_REAL and values.max() <= LARGEST_REAL:  # NaN is neither
        return
    bad = ~(np.abs(values) <= LARGEST_REAL)
    if rows is not None:
        bad &= rows.reshape(-1, *[1] * (values.ndim - 1))
    if bad.any():
        with np.errstate(over="ignore"):
            infinite = ~np.isfinite(values[bad].astype(np.float32))
        why = (
            "not finite in float32" if infinite.any() else f"above {LARGEST_REAL:g}, too large to be squared in float32"
        )
        _refuse(bad, why, location, field, values, first_row)


def _check_whole(location: str, field: str, values: np.ndarray, space: gym.Space, first_row: int) -> None:
    """Refuse what an integer space does not hold, before it would wrap around or lose its fraction."""
    if isinstance(space, gym.spaces.Discrete):
        low, high = space.start, space.start + space.n - 1
    elif isinstance(space, gym.spaces.MultiDiscrete):
        low, high = space.start, space.start + space.nvec - 1
    elif isinstance(space, gym.spaces.MultiBinary):
        low, high = np.int64(0), np.int64(1)
    else:
        assert isinstance(space, gym.spaces.Box)
        low, high = space.low, space.high
    if values.dtype == space.dtype and isinstance(space, gym.spaces.Box):
        limits = np.iinfo(values.dtype)
        if (low == limits.min).all() and (high == limits.max).all():
            return
    bad = ~((values >= low) & (values <= high))  # NaN is between no two numbers
    if np.issubdtype(values.dtype, np.floating):
        bad |= np.floor(values) != values
    of = "the action space" if field == "actions" else "the observation space"
    _refuse(
        bad,
        f"outside {of} of whole numbers [{_array_text(low)}, {_array_text(high)}]",
        location,
        field,
        values,
        first_row,
    )


def _refuse(bad: np.ndarray, why: str, location: str, field: str, values: np.ndarray, first_row: int) -> None:
    """Raise for the first of the bad rows, if there is one."""
    if not bad.any():
        return
    rows = np.flatnonzero(_in_row(bad))
    raise ValueError(
        f"{location}: {field} row {first_row + rows[0]} is {_array_text(values[rows[0]])}, {why}; "
        f"{len(rows)} such rows in this part of the file"
    )


def _in_row(bad: np.ndarray) -> np.ndarray:
    """`[n]` bool: some entry of the row is set."""
    return np.any(bad.reshape(len(bad), -1), axis=1)


def _array_text(values: object) -> str:
    values = np.asarray(values)
    text = np.array2string(values, precision=4, threshold=8, separator=", ") if values.size <= 64 else "an array"
    return " ".join(text.split())


def clip_actions(chunk: Chunk, action: gym.Space) -> tuple[Chunk, np.ndarray]:
    """Actions that rounding took across a bound, put on it; and `[n]` bool, which rows those are."""
    if not is_real(action):
        return chunk, np.zeros(len(chunk.reward), dtype=bool)
    assert isinstance(action, gym.spaces.Box)
    stored = chunk.action.astype(np.float32, copy=False)
    if (stored.min(0) >= action.low).all() and (stored.max(0) <= action.high).all():
        return chunk, np.zeros(len(stored), dtype=bool)
    rows = _in_row((stored < action.low) | (stored > action.high))
    return chunk._replace(action=np.clip(stored, action.low, action.high)), rows
