"""Behaviours that `reverie collect` mixes, as they are asked for, and the callables that act by them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.recorded_environment import label
from datamodules.played.behaviours import CONTROLLERS, Behaviour, at_random, with_noise, with_random
from datamodules.played.minari_episodes import recordable_spaces
from datamodules.played.policies import RandomPolicy
from modules.arguments.checks import check_positive, check_ranges

Kind = Literal["random", "controller", "checkpoint"]


@dataclass(frozen=True)
class Part:
    """One behaviour and its share of the transitions.

    Args:
        behaviour: `random` (uniform actions), `controller` (the built-in one of the environment) or `checkpoint`.
        share: part of all transitions, relative to the other shares.
        noise: standard deviation of Gaussian action noise, in half-widths of the action space.
        epsilon: probability that an action is replaced by a uniformly random one.
        checkpoint: file of the agent that acts, for `checkpoint`.
        member: name of the agent's member, where it has several.
    """

    behaviour: Kind
    share: float = 1.0
    noise: float = 0.0
    epsilon: float = 0.0
    checkpoint: str | None = None
    member: str | None = None

    def __post_init__(self) -> None:
        check_positive(share=self.share)
        check_ranges(("noise", self.noise, 0.0, 1e12), ("epsilon", self.epsilon, 0.0, 1.0))
        if self.behaviour == "random" and (self.noise or self.epsilon):
            raise ValueError("noise and epsilon change nothing about behaviour 'random'; leave them out")
        if (self.behaviour == "checkpoint") != (self.checkpoint is not None):
            raise ValueError("behaviour 'checkpoint' needs a checkpoint file, and only that behaviour takes one")
        if self.member is not None and self.behaviour != "checkpoint":
            raise ValueError("only behaviour 'checkpoint' takes a member")

    @property
    def label(self) -> str:
        """For tables: `controller, noise 0.5`."""
        extras = [f"{name} {value:g}" for name, value in (("noise", self.noise), ("epsilon", self.epsilon)) if value]
        return ", ".join([self.behaviour, *extras])

    @property
    def identity(self) -> dict[str, Any]:
        """The arguments that decide the content: of a checkpoint its hash, not its place."""
        arguments = asdict(self)
        if self.checkpoint is not None:
            from commands.checkpoints import file_hash  # imports Lightning, for seconds

            arguments["checkpoint"] = file_hash(self.checkpoint)
        return arguments


def parts_of(
    behaviour: Kind | list[Part], noise: float, epsilon: float, checkpoint: str | None, member: str | None
) -> list[Part]:
    """The mixture that the flags describe.

    Raises:
        ValueError: the behaviour is a list, which would override other flags.
    """
    if isinstance(behaviour, str):
        return [Part(behaviour, 1.0, noise, epsilon, checkpoint, member)]
    flags = {"noise": noise, "epsilon": epsilon, "checkpoint": checkpoint, "member": member}
    given = [name for name, value in flags.items() if value]
    if given:
        raise ValueError(f"behaviour is a list: give {', '.join(given)} inside its entries")
    return behaviour


def built_in_controller(environment: EnvironmentSpec) -> Behaviour | None:
    """The controller of an environment as it is registered; None if there is none."""
    return CONTROLLERS.get(environment.id) if environment == EnvironmentSpec(environment.id) else None


def behaviour_of(part: Part, environment: EnvironmentSpec, copies: int, seed: np.random.SeedSequence) -> Behaviour:
    """The callable that a part of the mixture names, for so many copies of the environment.

    Raises:
        ValueError: there is no such controller, checkpoint or member, or it does not fit the environment.
    """
    observation, action = recordable_spaces(environment)
    random = RandomPolicy(action, copies, seed)
    if part.behaviour == "random":
        return at_random(random)
    if part.behaviour == "controller":
        built_in = built_in_controller(environment)
        if built_in is None:
            name = label(environment.to_plain())
            raise ValueError(f"no controller is built in for {name}; there is one for: {', '.join(CONTROLLERS)}")
        act = built_in
    else:
        from commands.checkpoint_behaviour import checkpoint_behaviour  # imports Lightning, for seconds

        assert part.checkpoint is not None
        act = checkpoint_behaviour(part.checkpoint, part.member, environment, observation, action)
    if part.noise:
        if not isinstance(action, gym.spaces.Box):
            raise ValueError(f"noise: {part.noise:g} is for Box actions, not {action}; epsilon makes some random")
        act = with_noise(act, part.noise, action, random.generator)
    return with_random(act, part.epsilon, random) if part.epsilon else act
