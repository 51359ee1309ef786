"""How wide an environment's actions are as a model sees them, and which environments have none that it can give."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from modules.batch import brief
from modules.trust.options import option


def action_width(space: gym.Space) -> int:
    """`A`, width of this space's actions as a model sees them.

    Raises:
        ValueError: the space is of another kind than Discrete, MultiDiscrete or a Box of floats, not flat, or not
            bounded.
    """
    if isinstance(space, gym.spaces.Discrete):
        return int(space.n)
    if isinstance(space, gym.spaces.MultiDiscrete) and len(space.shape) == 1:
        return int(space.nvec.sum())
    wrapper = option("data.wrappers", "'[{class_path: my_module.MyWrapper}]'", "[my_module.MyWrapper]")
    own = f"a gymnasium.ActionWrapper of your own: {wrapper}"
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1 or not np.issubdtype(space.dtype, np.floating):
        raise ValueError(
            f"actions must be Discrete, a flat MultiDiscrete, or a flat Box of floats, got {brief(space)}; name {own}"
        )
    if not space.is_bounded():
        limits = option(
            "data.wrappers",
            "'[{class_path: datamodules.envs.wrappers.LimitActions, init_args: {low: -1, high: 1}}]'",
            "[functools.partial(datamodules.envs.wrappers.LimitActions, low=-1, high=1)]",
        )
        raise ValueError(f"actions of a Box need finite bounds, got {brief(space)}; this sets some: {limits}")
    if not (space.low < space.high).all():
        raise ValueError(
            f"actions of a Box need bounds with low below high, got {brief(space)}; leave the others out by {own}"
        )
    return space.shape[0]
