"""Shapes and dtypes in which observations and actions of an environment are stored and given to agents."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import torch

from datamodules.replay.memory_mapped_rows import Field
from modules.batch import brief

OWN_WRAPPER = "--data.wrappers '[{class_path: my_module.MyWrapper}]'"


def field_of(space: gym.Space, name: str) -> Field:
    """Shape and dtype in which values of a space are stored and given to agents: floats have 32 bits.

    Args:
        space: space of one value.
        name: name of the value, for errors.

    Raises:
        ValueError: the space is of another kind than Box, Discrete, MultiDiscrete and MultiBinary.
    """
    kinds = (gym.spaces.Box, gym.spaces.Discrete, gym.spaces.MultiDiscrete, gym.spaces.MultiBinary)
    if not isinstance(space, kinds) or space.dtype is None or space.shape is None:
        raise ValueError(
            f"{name} is of the space {brief(space)}, which no agent takes: name a wrapper of your own that makes a Box "
            f"or numbers of it, {OWN_WRAPPER}"
        )
    if np.issubdtype(space.dtype, np.floating):
        return Field(space.shape, torch.float32)
    same = {np.dtype(np.uint8): torch.uint8, np.dtype(np.int8): torch.int8, np.dtype(bool): torch.bool}
    return Field(space.shape, same.get(np.dtype(space.dtype), torch.int64))


def observation_fields(space: gym.Space) -> Field | dict[str, Field]:
    """Shape and dtype of a stored observation, or of each key of a Dict.

    Args:
        space: observation space of one environment, made plain by `datamodules.envs.plain`.

    Raises:
        ValueError: a part is of a space that cannot be stored.
    """
    if isinstance(space, gym.spaces.Dict):
        kept = [key for key, part in space.items() if isinstance(part, gym.spaces.Box)]
        for key, part in space.items():
            if key not in kept:
                listed = ", ".join(json.dumps(key) for key in kept)
                others = f": --data.observation_keys '[{listed}]'" if kept else "; no other part is left"
                raise ValueError(f"observation {key!r}, {brief(part)}, cannot be learned from; leave it out{others}")
        return {key: field_of(part, f"observation {key!r}") for key, part in space.items()}
    if isinstance(space, gym.spaces.Box):
        return field_of(space, "the observation")
    wrapper = "a wrapper of your own that makes a Box of it, " + OWN_WRAPPER
    if isinstance(space, gym.spaces.Text):
        wrapper = "--data.wrappers '[{class_path: gymnasium.wrappers.FlattenObservation}]', which counts characters"
    raise ValueError(f"the observation is of the space {brief(space)}, which cannot be learned from; give {wrapper}")
