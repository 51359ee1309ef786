"""Observations of any kind as the kinds that agents take: vectors of numbers, vectors of bytes, and images.

Vectors of floats or bytes and images `[H, W, C]` of bytes stay as they are, and an environment whose whole observation
is of these kinds is not wrapped at all.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

MOST_CLASSES = 4096
"""Width of the widest one-hot vector."""

SIDE = 8
"""Smallest side of an image whose shape alone does not show that it is one."""

MOST_CHANNELS = 4
"""Most channels of an image whose shape alone does not show which axis they are on."""

PICTURE_SIDE = 32
"""Smallest side of a picture without an axis of channels that is not of bytes."""

Convert = Callable[[Any], Any]
"""From an observation as the environment gives it, or a batch of them along first axes, to plain ones."""


class PlainObservations(gym.ObservationWrapper, gym.utils.RecordConstructorArgs):
    """The environment with observations of the kinds that agents take, see `plain_space`."""

    def __init__(self, env: gym.Env) -> None:
        gym.utils.RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        self.observation_space, convert = plain_space(env.observation_space)
        self._convert = functools.partial(convert or _same)  # a partial counts as constant in snapshots

    def observation(self, observation: Any) -> Any:
        """The plain observation."""
        return self._convert(observation)


def plain_observations(env: gym.Env) -> gym.Env:
    """The environment itself where its observations are plain already, else in a `PlainObservations`."""
    return env if plain_space(env.observation_space)[1] is None else PlainObservations(env)


def plain_space(space: gym.Space) -> tuple[gym.Space, Convert | None]:
    """A space in plain kinds, and how its values become those; None where they are plain.

    - Discrete and MultiDiscrete become one-hot vectors side by side, and like MultiBinary and arrays of flags an int8
      Box of zeros and ones `[D]`.
    - Pictures become uint8 images `[H, W, C]`: bytes `[C, H, W]`, `[H, W]` and stacks of images; other numbers with
      the same bounds everywhere and at most four channels.
    - All other boxes of more than one axis become vectors.
    - Dict and Tuple, however deep, become one Dict, whose keys are those of the parts with a slash between them.

    Spaces without a plain form (Text, Sequence, Graph, classes without number) stay as they are.
    """
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        return plain_part(space)
    parts = {key: plain_part(part) for key, part in leaves(space)}
    nested = isinstance(space, spaces.Tuple) or len(parts) != len(space) or parts.keys() != space.keys()
    if not nested and all(convert is None for _, convert in parts.values()):
        return space, None
    converts = {key: convert or _same for key, (_, convert) in parts.items()}

    def convert_all(observation: Any) -> dict[str, Any]:
        values = dict(leaf_values(space, observation))
        return {key: convert(values[key]) for key, convert in converts.items()}

    return spaces.Dict({key: part for key, (part, _) in parts.items()}), convert_all


def _same(value: Any) -> Any:
    return value


def below(space: gym.Space) -> list[tuple[Any, gym.Space]] | None:
    """The parts of a Dict or Tuple, by key or place; None for what has no parts."""
    if isinstance(space, spaces.Dict):
        return list(space.items())
    return list(enumerate(space)) if isinstance(space, spaces.Tuple) else None


def leaves(space: gym.Space, path: str = "") -> Iterator[tuple[str, gym.Space]]:
    """Parts that are neither Dict nor Tuple, by key, with a slash between the keys of nested ones."""
    parts = below(space)
    if parts is None:
        yield path, space
        return
    for key, part in parts:
        yield from leaves(part, f"{path}/{key}" if path else str(key))


def leaf_values(space: gym.Space, value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Values of the parts of `leaves`, by key."""
    parts = below(space)
    if parts is None:
        yield path, value
        return
    for key, part in parts:
        yield from leaf_values(part, value[key], f"{path}/{key}" if path else str(key))


def plain_part(space: gym.Space) -> tuple[gym.Space, Convert | None]:
    """As `plain_space`, of a space that is neither Dict nor Tuple."""
    if isinstance(space, spaces.Discrete):
        return _one_hot(space, [int(space.n)], [int(space.start)])
    if isinstance(space, spaces.MultiDiscrete):
        return _one_hot(space, space.nvec.flatten().tolist(), np.asarray(space.start).flatten().tolist())
    if isinstance(space, spaces.MultiBinary) or (_is_box(space) and space.dtype == bool and len(_shape(space)) > 1):
        return _binary(int(np.prod(_shape(space)))), lambda value: flat_rows(np.asarray(value, np.int8), _shape(space))
    if not isinstance(space, spaces.Box) or len(space.shape) < 2:
        return space, None
    picture = picture_axes(space)
    if picture is not None:
        return _picture(space, picture)
    low, high = space.low.reshape(-1), space.high.reshape(-1)
    return spaces.Box(low, high, dtype=space.dtype.type), lambda value: flat_rows(np.asarray(value), space.shape)


def flat_rows(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`[..., *shape]` to `[..., D]`: one vector for each value of this shape."""
    return value.reshape(*value.shape[: value.ndim - len(shape)], int(np.prod(shape)))


def _is_box(space: gym.Space) -> bool:
    return isinstance(space, spaces.Box)


def _shape(space: gym.Space) -> tuple[int, ...]:
    assert space.shape is not None
    return space.shape


def _binary(width: int) -> spaces.Box:
    return spaces.Box(0, 1, (width,), np.int8)


def _one_hot(space: gym.Space, sizes: list[int], starts: list[int]) -> tuple[gym.Space, Convert | None]:
    """One-hot vectors of the numbers, side by side."""
    width = sum(sizes)
    if width > MOST_CLASSES:
        return space, None
    offsets = np.cumsum([0, *sizes[:-1]]) - starts
    lows, highs = np.array(starts), np.array(starts) + sizes

    def convert(value: Any) -> np.ndarray:
        numbers = flat_rows(np.asarray(value), _shape(space))
        if not ((lows <= numbers) & (numbers < highs)).all():
            raise ValueError(f"the observation {value} is outside of its space {space}")
        made = np.zeros((*numbers.shape[:-1], width), np.int8)
        np.put_along_axis(made, offsets + numbers, 1, -1)
        return made

    return _binary(width), convert


# ------------------------------------------------------------------------------------------------------------ pictures
def picture_axes(space: spaces.Box) -> str | None:
    """Order of a picture's axes out of `HW`, `HWC`, `CHW`, and behind an S those of a stack of them; or None."""
    shape, bytes_ = space.shape, space.dtype == np.uint8
    if not bytes_ and not _has_one_range(space):
        return None
    if len(shape) == 2:
        return "HW" if min(shape) >= (SIDE if bytes_ else PICTURE_SIDE) else None
    if len(shape) == 3 and bytes_:
        return "CHW" if _channels_first(shape) else "HWC"
    if len(shape) == 3:
        return _image_axes(shape)
    if len(shape) == 4:
        axes = _image_axes(shape[1:])
        return None if axes is None else f"S{axes}"
    return None


def _channels_first(shape: tuple[int, ...]) -> bool:
    """Whether `[C, H, W]` is meant: few channels before a picture, or more of them, as in a stack, before a large one.

    A small board may well have many kinds of pieces on its last axis, and is one of `[H, W, C]`.
    """
    first, side, last = shape[0], min(shape[1:]), shape[2]
    if last <= MOST_CHANNELS:
        return False
    return (first <= MOST_CHANNELS and side >= SIDE) or (first <= PICTURE_SIDE // 2 and side >= PICTURE_SIDE)


def _image_axes(shape: tuple[int, ...]) -> str | None:
    """`HWC` or `CHW` where one end has few enough entries to be channels, and the sides are those of an image."""
    if shape[2] <= MOST_CHANNELS and min(shape[:2]) >= SIDE:
        return "HWC"
    return "CHW" if shape[0] <= MOST_CHANNELS and min(shape[1:]) >= SIDE else None


def _has_one_range(space: spaces.Box) -> bool:
    low, high = space.low.flat[0], space.high.flat[0]
    same = (space.low == low).all() and (space.high == high).all()
    return bool(same and np.isfinite([low, high]).all() and low < high)


def _picture(space: spaces.Box, axes: str) -> tuple[gym.Space, Convert | None]:
    bytes_ = space.dtype == np.uint8
    if axes == "HWC" and bytes_:
        return space, None
    low, width = float(space.low.flat[0]), float(space.high.flat[0]) - float(space.low.flat[0])

    def convert(value: Any) -> np.ndarray:
        picture = _channels_last(np.asarray(value), axes)
        if bytes_:
            return np.ascontiguousarray(picture)
        return np.rint(255.0 * ((picture - low) / width)).clip(0, 255).astype(np.uint8)

    shape = _channels_last(np.empty(space.shape, np.uint8), axes).shape
    return spaces.Box(0, 255, shape, np.uint8), convert


def _channels_last(picture: np.ndarray, axes: str) -> np.ndarray:
    """`[..., H, W, C]`; of a stack with the channels of all its images, one after the other."""
    if axes == "HW":
        return picture[..., None]
    if axes.startswith("S"):
        return np.concatenate([_channels_last(image, axes[1:]) for image in np.moveaxis(picture, -4, 0)], -1)
    return np.moveaxis(picture, -3, -1) if axes == "CHW" else picture
