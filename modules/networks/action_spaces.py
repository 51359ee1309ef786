"""How wide an environment's actions are as a model sees them, and which environments have none that it can give."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from modules.batch import brief


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
    own = "a gymnasium.ActionWrapper of your own: --data.wrappers '[{class_path: my_module.MyWrapper}]'"
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1 or not np.issubdtype(space.dtype, np.floating):
        raise ValueError(
            f"actions must be Discrete, a flat MultiDiscrete, or a flat Box of floats, got {brief(space)}; name {own}"
        )
    if not space.is_bounded():
        raise ValueError(
            f"actions of a Box need finite bounds, got {brief(space)}; this sets some: --data.wrappers "
            "'[{class_path: datamodules.envs.wrappers.LimitActions, init_args: {low: -1, high: 1}}]'"
        )
    if not (space.low < space.high).all():
        raise ValueError(
            f"actions of a Box need bounds with low below high, got {brief(space)}; leave the others out by {own}"
        )
    return space.shape[0]
