"""Recorded observations as agents see them: in plain form, parts joined, images resized; and the same in play."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from datamodules.envs.joined import JoinKeys, joined
from datamodules.envs.plain import Convert, plain_space
from datamodules.envs.wrappers import MOST_SIDE, ResizeImages, resize_image
from datamodules.recorded.checks import check_observations
from datamodules.recorded.description import Chunk, Observations
from modules.arguments.checks import check_ranges
from modules.batch import brief, is_image
from modules.trust.names import short


@dataclass(frozen=True)
class View:
    """How a person wants recorded observations to be seen.

    Attributes:
        keys: parts of Dict observations that are joined, in order, see `datamodules.envs.joined.joined`; None for all
            of numbers.
        resize: side of the square that images are resized to; None leaves them.
    """

    keys: Sequence[str] | None = None
    resize: int | None = None

    def to_plain(self) -> dict[str, Any]:
        """The arguments of the data, by name."""
        return {"observation_keys": None if self.keys is None else list(self.keys), "resize": self.resize}

    @property
    def wrappers(self) -> list[Callable[[gym.Env], gym.Env]]:
        """Wrappers through which an environment is seen this way, where keys are all those that are joined."""
        join = [] if self.keys is None else [functools.partial(JoinKeys, keys=list(self.keys))]
        return [*join, *([] if self.resize is None else [functools.partial(ResizeImages, size=self.resize)])]


def last_view(wrappers: Sequence[Any]) -> tuple[View, int]:
    """How an environment is seen by the last of its wrappers, and how many of these say so; inverse of `wrappers`."""
    keys, size, count = None, None, 0
    for wrapper in reversed(wrappers):
        kind, told = (wrapper.func, wrapper.keywords) if isinstance(wrapper, functools.partial) else (wrapper, {})
        if kind is ResizeImages and not count:
            size = told["size"]
        elif kind is JoinKeys:
            keys, count = told.get("keys"), count + 1
            break
        else:
            break
        count += 1
    return View(keys, size), count


class Seen:
    """The way from observations as a file holds them to those that are trained on.

    Args:
        space: space of the observations in the file.
        asked: how they are to be seen.
        location: file that messages name.

    Attributes:
        space: space of the observations that are trained on, a Box.
        view: how they are seen, with the parts that are joined; without keys where observations have no parts.
        parts: the same parts in plain form, as they become `space` by joining them alone; None where they do not.

    Raises:
        ValueError: a key is wrong, or is given for observations without parts; there is no image to resize; or the
            observations have no plain form.
    """

    def __init__(self, space: gym.Space, asked: View, location: str) -> None:
        self.recorded = space
        # Parts are joined; an observation without parts becomes plain as an environment's does.
        try:
            has_parts = asked.keys is not None or isinstance(space, gym.spaces.Dict | gym.spaces.Tuple)
            self.joined = joined(space, asked.keys) if has_parts else None
        except ValueError as error:
            raise ValueError(f"{location}: {error}") from error
        convert: Convert | None = None
        if self.joined is None:
            plain, convert = plain_space(space)
        else:
            plain = self.joined.space
        if not isinstance(plain, gym.spaces.Box):
            raise ValueError(
                f"{location}: the observation space is {brief(space)}; numbers and images alone are learned from"
            )
        self._convert = convert
        self.view = View(None if self.joined is None else list(self.joined.parts), asked.resize)
        self.parts = None if self.joined is None or asked.resize is not None else self.joined.plain
        self.space = plain
        if asked.resize is not None:
            check_ranges(("resize", asked.resize, 1, MOST_SIDE))
            if not is_image(plain):
                raise ValueError(f"{location}: there is no image to resize in {brief(plain)}; leave resize out")
            self.space = gym.spaces.Box(0, 255, (asked.resize, asked.resize, plain.shape[2]), np.uint8)

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

        if self.joined is not None:
            if not isinstance(values, Mapping):
                raise ValueError(
                    f"{location}: {field} are one array, and have the parts {short(', '.join(self.joined.parts))} by "
                    "their space; name the wrapper that made one array of them with data.wrappers"
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
        size = self.view.resize
        return seen if size is None else np.stack([resize_image(image, size) for image in seen])
