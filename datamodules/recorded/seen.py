"""Recorded observations as agents see them: in plain form, parts joined, images resized; and the same in play."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import gymnasium as gym
import numpy as np

from datamodules.envs.joined import JoinKeys, joined
from datamodules.envs.plain import plain_space
from datamodules.envs.wrappers import ResizeImages, is_image, resize_image
from datamodules.recorded.checks import check_observations
from datamodules.recorded.description import Chunk, Observations
from modules.arguments.checks import check_sizes
from modules.batch import brief
from modules.trust.names import short


class Seen:
    """The way from observations as a file holds them to those that are trained on.

    Args:
        space: space of the observations in the file.
        keys: parts of Dict observations, see `datamodules.envs.joined.joined`; None for all of numbers.
        resize: side of the square that images are resized to; None leaves them.
        location: file that messages name.

    Attributes:
        space: space of the observations that are trained on, a Box.
        keys: the parts that are joined, in order; None where observations have no parts.
        parts: the same parts in plain form, as they become `space` by joining them alone; None where they do not.

    Raises:
        ValueError: a key is wrong, or is given for observations without parts; there is no image to resize; or the
            observations have no plain form.
    """

    def __init__(self, space: gym.Space, keys: Sequence[str] | None, resize: int | None, location: str) -> None:
        self.recorded = space
        self.resize = resize
        self.keys: list[str] | None = None
        self.parts: gym.spaces.Dict | None = None
        if keys is not None or isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
            try:
                self.joined = joined(space, keys)
            except ValueError as error:
                raise ValueError(f"{location}: {error}") from error
            self.keys, self.parts = list(self.joined.parts), self.joined.plain
            plain: gym.Space = self.joined.space
        else:
            plain, self._convert = plain_space(space)
        if not isinstance(plain, gym.spaces.Box):
            raise ValueError(
                f"{location}: the observation space is {brief(space)}; numbers and images alone are learned from"
            )
        self.space = plain
        if resize is not None:
            check_sizes(resize=resize)
            if not is_image(plain):
                raise ValueError(f"{location}: there is no image to resize in {brief(plain)}; leave resize out")
            self.space = gym.spaces.Box(0, 255, (resize, resize, plain.shape[2]), np.uint8)
            self.parts = None

    def chunk(self, chunk: Chunk, first_row: int, location: str) -> Chunk:
        """Steps with the observations that are trained on.

        Args:
            chunk: steps as the file holds them.
            first_row: row of the first one in the file.
            location: file that messages name.

        Raises:
            ValueError: a part of the observations is missing, or is not what its space says.
        """
        rows = chunk.usable
        return chunk._replace(
            observation=self._rows(chunk.observation, None, "observations", first_row, location),
            next_observation=self._rows(chunk.next_observation, rows, "next observations", first_row, location),
        )

    def _rows(
        self, values: Observations, counted: np.ndarray | None, field: str, first_row: int, location: str
    ) -> np.ndarray:
        """`[n, ...]` observations that are trained on; those that do not count are of any value."""

        def checked(array: np.ndarray, space: gym.Space, name: str) -> np.ndarray:
            return check_observations(array, space, location, name, first_row, counted)

        if self.keys is not None:
            if not isinstance(values, Mapping):
                raise ValueError(
                    f"{location}: {field} are one array, and have the parts {short(', '.join(self.keys))} by their "
                    "space; name the wrapper that made one array of them with data.wrappers"
                )
            parts = {key: checked(values[key], part, f"{field} {key!r}") for key, part in self.joined.parts.items()}
            seen = self.joined(parts)
        else:
            if isinstance(values, Mapping):
                raise ValueError(
                    f"{location}: {field} have the parts {short(', '.join(values))}, and are "
                    f"{brief(self.recorded)} by their space"
                )
            seen = checked(values, self.recorded, field)
            seen = seen if self._convert is None else self._convert(seen)
        return seen if self.resize is None else np.stack([resize_image(image, self.resize) for image in seen])


def wrappers_of(keys: Sequence[str] | None, resize: int | None) -> list[Callable[[gym.Env], gym.Env]]:
    """Wrappers that join parts of the observation and resize its images; none for what is None."""
    join = [] if keys is None else [functools.partial(JoinKeys, keys=list(keys))]
    return [*join, *([] if resize is None else [functools.partial(ResizeImages, size=resize)])]
