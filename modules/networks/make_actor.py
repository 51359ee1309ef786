"""The actor for an action space."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym

from modules.networks.action_spaces import action_width
from modules.networks.actor_base import Actor
from modules.networks.actors import DiscreteActor, TruncatedNormalActor
from modules.networks.trunks import Trunk

MakeDiscrete = Callable[[gym.spaces.Discrete | gym.spaces.MultiDiscrete, int, Trunk, int], Actor]
MakeContinuous = Callable[[gym.spaces.Box, int, Trunk, int], Actor]


def make_actor(
    space: gym.Space,
    d_features: int,
    trunk: Trunk,
    units: int,
    *,
    discrete: MakeDiscrete = DiscreteActor,
    continuous: MakeContinuous = TruncatedNormalActor,
) -> Actor:
    """The actor for an action space.

    Args:
        space: Discrete, flat MultiDiscrete, or a bounded flat Box of floats.
        d_features: `F`, width of the features.
        trunk: makes a dense network from its widths of input and output.
        units: width that the trunk gives.
        discrete: makes the actor of the first two: the class, or a partial of it.
        continuous: makes the actor of a Box.

    Raises:
        ValueError: the space is of another kind, not flat, or not bounded.
    """
    action_width(space)
    if isinstance(space, gym.spaces.Box):
        return continuous(space, d_features, trunk, units)
    assert isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete)
    return discrete(space, d_features, trunk, units)
