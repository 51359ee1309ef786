"""The actor for an action space."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import gymnasium as gym

from modules.batch import brief
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


def check_makers(owner: type, space: gym.Space, discrete: MakeDiscrete, continuous: MakeContinuous) -> None:
    """Refuse a policy that is given for the other kind of actions alone, where it would be ignored.

    A config that is meant for environments of both kinds gives both.

    Args:
        owner: class whose constructor has the arguments `discrete` and `continuous`; its defaults are what is usual.
        space: space of the actions.
        discrete: see `make_actor`.
        continuous: see `make_actor`.

    Raises:
        ValueError: it names the argument.
    """
    usual = inspect.signature(owner).parameters
    given = {
        name: name in usual and _class_and_arguments(maker) != _class_and_arguments(usual[name].default)
        for name, maker in (("discrete", discrete), ("continuous", continuous))
    }
    used, other = ("continuous", "discrete") if isinstance(space, gym.spaces.Box) else ("discrete", "continuous")
    if given[other] and not given[used]:
        raise ValueError(
            f"{other} would be ignored: it makes the policy of {'numbered' if other == 'discrete' else 'continuous'} "
            f"actions, and these are {brief(space)}, whose policy {used} makes; leave it out"
        )


def _class_and_arguments(maker: Any) -> tuple[Any, dict[str, Any]]:
    """The class that a maker calls, and all arguments, those that it leaves as they are included."""
    made, keywords = maker, {}
    if isinstance(maker, functools.partial):
        # A config's class is the last of the arguments that jsonargparse calls it through.
        made, keywords = (maker.args or (maker.func,))[-1], maker.keywords
    parameters = inspect.signature(made).parameters.values()
    return made, {p.name: p.default for p in parameters if p.default is not p.empty} | keywords
