"""Observations as an environment gives them, brought by tensors into the kinds that agents take.

What is exported begins with it, so that a policy takes what `step` of its environment gives, boards as boards and
numbers as numbers. The same is done to arrays in `datamodules.envs.plain`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import gymnasium as gym
import torch
from torch import Tensor

from datamodules.envs.joined import JoinKeys
from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.plain import leaves, picture_axes, plain_part
from modules.batch import PLAIN


class Own(NamedTuple):
    """Observations of an environment.

    Attributes:
        space: space of a whole one.
        parts: spaces of the parts that an agent looks at, by key; of one array by the key `observation`.
    """

    space: gym.Space
    parts: dict[str, gym.Space]


def own_observations(environment: EnvironmentSpec | None, taken: Mapping[str, gym.Space]) -> Own | None:
    """The environment's own observations, as far as an agent looks at them.

    Args:
        environment: the one that the agent was trained for, or None.
        taken: spaces of what the agent takes by key; of one array by the key `observation`.

    Returns:
        None where they are as the agent takes them, or are not known: where there is no environment, or it observes
        something else.

    Raises:
        ValueError: the environment cannot be made.
    """
    if environment is None:
        return None
    joins = [getattr(wrapper, "func", wrapper) is JoinKeys for wrapper in environment.wrappers]
    if taken.keys() != {PLAIN} and any(joins):  # the parts are those of what is joined
        environment = replace(environment, wrappers=environment.wrappers[: joins.index(True)])
    made = environment.bare()
    space = made.observation_space
    made.close()
    known = {key or PLAIN: part for key, part in leaves(space)}
    if not taken.keys() <= known.keys():
        return None
    plain = {key: plain_part(known[key]) for key in taken}
    if any(plain[key][0].shape != part.shape for key, part in taken.items()):
        return None
    if all(convert is None for _, convert in plain.values()):
        return None
    return Own(space, {key: known[key] for key in taken})


def to_plain(space: gym.Space, value: Tensor) -> Tensor:
    """A batch `[B, ...]` of a part of an environment's observations, as `plain_part` has it."""
    if isinstance(space, gym.spaces.Discrete):
        return _one_hot(value.unsqueeze(-1), [int(space.n)], [int(space.start)])
    if isinstance(space, gym.spaces.MultiDiscrete):
        return _one_hot(value.flatten(1), space.nvec.flatten().tolist(), space.start.flatten().tolist())
    if plain_part(space)[1] is None:
        return value
    assert isinstance(space, gym.spaces.Box | gym.spaces.MultiBinary)
    if isinstance(space, gym.spaces.MultiBinary) or space.dtype == bool:
        return value.flatten(1).to(torch.int8)
    axes = picture_axes(space)
    if axes is None:
        return value.flatten(1)
    picture = _channels_last(value, axes)
    if picture.dtype == torch.uint8:
        return picture
    low, width = float(space.low.flat[0]), float(space.high.flat[0]) - float(space.low.flat[0])
    return torch.round(255.0 * ((picture.float() - low) / width)).clamp(0.0, 255.0).to(torch.uint8)


def number_ranges(space: gym.Space) -> tuple[int, int] | None:
    """Least and greatest of the numbers that become one-hot vectors: others have none; None where none become such."""
    if isinstance(space, gym.spaces.Discrete):
        return int(space.start), int(space.start) + int(space.n) - 1
    if isinstance(space, gym.spaces.MultiDiscrete):
        return int(space.start.min()), int((space.start + space.nvec).max()) - 1
    return None


def _one_hot(numbers: Tensor, sizes: list[int], starts: list[int]) -> Tensor:
    """int8 one-hot vectors of numbers `[B, G]`, side by side."""
    columns = zip(numbers.unbind(-1), sizes, starts, strict=True)
    return torch.cat([(x.unsqueeze(-1) - low == torch.arange(size)).to(torch.int8) for x, size, low in columns], -1)


def _channels_last(picture: Tensor, axes: str) -> Tensor:
    """`[B, H, W, C]`; of a stack `[B, S, ...]` with the channels of all its images, one after the other."""
    if axes == "HW":
        return picture.unsqueeze(-1)
    if axes.startswith("S"):
        return torch.cat([_channels_last(image, axes[1:]) for image in picture.unbind(1)], -1)
    return picture.movedim(1, -1) if axes == "CHW" else picture
