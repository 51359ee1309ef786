"""Wrappers that Gymnasium lacks, or has only with further packages."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from datamodules.envs.plain import plain_observations
from modules.arguments.checks import check_ranges, check_sizes
from modules.batch import is_image

MOST_SIDE = 4096
"""Longest side that images are resized to; a longer one is a mistake, and would fill the memory."""


class RepeatAction(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """Each action is taken `count` times, or until the episode ends; the rewards are added up.

    Raises:
        ValueError: `count` is not positive.
    """

    def __init__(self, env: gym.Env, count: int) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, count=count)
        gym.Wrapper.__init__(self, env)
        check_sizes(count=count)
        self.count = count

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Up to `count` steps of the environment."""
        total = 0.0
        for _ in range(self.count):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info


class ResizeImages(gym.ObservationWrapper, gym.utils.RecordConstructorArgs):
    """Resizes images of the observation, alone or in a Dict, to `[size, size, C]` of bytes.

    Images are those that `datamodules.envs.plain.plain_space` recognises, channels first or last. A pixel of
    the result is the mean of the area that it covers, as with OpenCV's `INTER_AREA`.

    Raises:
        ValueError: `size` is not a side of an image, or the observation has no image.
    """

    def __init__(self, env: gym.Env, size: int) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, size=size)
        gym.Wrapper.__init__(self, plain_observations(env))
        check_ranges(("size", size, 1, MOST_SIDE))
        self.size = size
        space = self.env.observation_space
        if isinstance(space, gym.spaces.Dict):
            self._images = [key for key, part in space.items() if is_image(part)]
            parts = {key: self._resized(part) if key in self._images else part for key, part in space.items()}
            self.observation_space = gym.spaces.Dict(parts)
        else:
            self._images = [""] if is_image(space) else []
            self.observation_space = self._resized(space) if self._images else space
        if not self._images:
            raise ValueError(f"there is no image to resize in {space}; leave data.resize and ResizeImages out")

    def _resized(self, space: gym.Space) -> gym.spaces.Box:
        assert space.shape is not None
        return gym.spaces.Box(0, 255, (self.size, self.size, space.shape[2]), np.uint8)

    def observation(self, observation: Any) -> Any:
        """The observation with its images resized."""
        if isinstance(observation, dict):
            resized = {key: resize_image(observation[key], self.size) for key in self._images}
            return {key: resized.get(key, value) for key, value in observation.items()}
        return resize_image(observation, self.size)


class StackImages(gym.ObservationWrapper, gym.utils.RecordConstructorArgs):
    """The newest images together, `[H, W, count C]` with the newest last: movement for agents without a memory.

    At a reset the first image stands in all places.

    Args:
        env: environment that is observed by images alone, channels first or last.
        count: number of images.

    Raises:
        ValueError: `count` is not positive, or the observation is no image.
    """

    def __init__(self, env: gym.Env, count: int = 4) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, count=count)
        gym.Wrapper.__init__(self, plain_observations(env))
        check_sizes(count=count)
        space = self.env.observation_space
        if not is_image(space):
            raise ValueError(f"images alone can be stacked, got {space}; leave StackImages out")
        height, width, channels = space.shape  # type: ignore[misc]  # an image has three axes
        self.observation_space = gym.spaces.Box(0, 255, (height, width, count * channels), np.uint8)
        self.count = count
        self._images: list[np.ndarray] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """A fresh episode."""
        self._images = []
        return super().reset(seed=seed, options=options)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """The observation behind those before it."""
        older = self._images[1:] if self._images else [observation] * (self.count - 1)
        self._images = [*older, observation]
        return np.concatenate(self._images, -1)


class KeepKeys(gym.ObservationWrapper, gym.utils.RecordConstructorArgs):
    """Keeps some parts of a Dict or Tuple observation and leaves out the others.

    Args:
        env: environment of such observations.
        keys: keys of the parts that are kept; a slash stands between the keys of nested parts, and those of a Tuple
            count from 0.

    Raises:
        ValueError: the observation has no parts, or none of this key, or no key is given.
    """

    def __init__(self, env: gym.Env, keys: list[str]) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, keys=keys)
        gym.Wrapper.__init__(self, plain_observations(env))
        space = self.env.observation_space
        if not isinstance(space, gym.spaces.Dict):
            raise ValueError(f"keys can be kept of a Dict or Tuple of observations alone, got {space}")
        if not keys or not set(keys) <= space.keys():
            raise ValueError(f"observation_keys must be some of {', '.join(space)}; got {keys}")
        self.keys = list(keys)
        self.observation_space = gym.spaces.Dict({key: space[key] for key in self.keys})

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        """The kept parts."""
        return {key: observation[key] for key in self.keys}


class LimitActions(gym.ActionWrapper, gym.utils.RecordConstructorArgs):
    """Bounds for actions that have none: a policy that explores needs to know how far.

    Args:
        env: environment with a Box of actions.
        low: bound where the environment has a lower one or none.
        high: bound where the environment has a higher one or none.

    Raises:
        ValueError: the actions are no Box of floats, or the bounds leave nothing of it.
    """

    def __init__(self, env: gym.Env, low: float = -1.0, high: float = 1.0) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, low=low, high=high)
        gym.Wrapper.__init__(self, env)
        space = env.action_space
        if not isinstance(space, gym.spaces.Box) or not np.issubdtype(space.dtype, np.floating):
            raise ValueError(f"actions can be limited of a Box of floats alone, got {space}")
        lows, highs = np.maximum(space.low, low), np.minimum(space.high, high)
        if not (lows < highs).all():
            raise ValueError(f"low={low} and high={high} leave no actions of {space}")
        self.action_space = gym.spaces.Box(lows, highs, dtype=space.dtype.type)

    def action(self, action: np.ndarray) -> np.ndarray:
        """The action as it is: within the limits, the environment takes all."""
        return action


class KeepEntries(gym.ObservationWrapper, gym.utils.RecordConstructorArgs):
    """Keeps some entries of a vector observation and hides the others.

    Args:
        env: environment of flat observations.
        indices: indices of the entries that are kept, in their new order; `[0, 2]` hides CartPole's velocities.

    Raises:
        ValueError: the observation is no flat Box, or an index is missing, out of range or there twice.
    """

    def __init__(self, env: gym.Env, indices: list[int]) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, indices=indices)
        gym.Wrapper.__init__(self, env)
        space = env.observation_space
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
            raise ValueError(f"entries can be kept of a flat Box alone, got {space}")
        size = space.shape[0]
        if not indices or len(set(indices)) < len(indices) or not all(0 <= index < size for index in indices):
            raise ValueError(f"indices must be different numbers from 0 to {size - 1}, got {indices}")
        self.indices = list(indices)
        low, high = space.low[self.indices], space.high[self.indices]
        self.observation_space = gym.spaces.Box(low, high, dtype=space.dtype.type)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """The kept entries."""
        return observation[self.indices]


def seen_through(keys: list[str] | None, size: int | None) -> list[Callable[[gym.Env], gym.Env]]:
    """Wrappers that keep some parts of the observation and resize its images; none for what is None."""
    kept = [] if keys is None else [functools.partial(KeepKeys, keys=list(keys))]
    return [*kept, *([] if size is None else [functools.partial(ResizeImages, size=size)])]


def resize_image(image: np.ndarray, size: int) -> np.ndarray:
    """`[H, W, C]` uint8 image as `[size, size, C]`, each pixel the rounded mean of the area that it covers."""
    height, width, channels = image.shape
    rows = area_weights(height, size) @ image.reshape(height, -1).astype(np.float32)
    resized = area_weights(width, size) @ rows.reshape(size, width, channels)
    return np.rint(resized).astype(np.uint8)


@functools.lru_cache(maxsize=32)
def area_weights(old: int, new: int) -> np.ndarray:
    """`[new, old]` float32 share of each old pixel in each new one, along one axis; rows sum to 1."""
    edges = np.linspace(0.0, old, new + 1)
    start, stop = edges[:-1, None], edges[1:, None]
    pixel = np.arange(old)
    covered = np.clip(np.minimum(stop, pixel + 1) - np.maximum(start, pixel), 0.0, None)
    return (covered / covered.sum(1, keepdims=True)).astype(np.float32)
