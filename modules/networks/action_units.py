"""Units of actions: a model's own, and those of the environment that they are played in."""

from __future__ import annotations

from abc import abstractmethod

import gymnasium as gym
import torch
from torch import Tensor, nn

from modules.functional.transforms import from_unit, to_unit


class ActionUnits(nn.Module):
    """Turns recorded actions into a model's, and a model's into those that are played; `width` is `A`, or their number.

    Attributes:
        width: number of dimensions, or of actions where they are numbers.
        discrete: whether actions are numbers.
    """

    width: int
    discrete: bool

    @abstractmethod
    def learned(self, action: Tensor) -> Tensor:
        """`[..., A]` or `[...]` actions of the environment as the model's."""

    @abstractmethod
    def played(self, action: Tensor) -> Tensor:
        """The inverse of `learned`."""


class BoxUnits(ActionUnits):
    """A model acts in [-1, 1], and the environment in a bounded box.

    Args:
        space: the flat box.
    """

    low: Tensor
    high: Tensor
    discrete = False

    def __init__(self, space: gym.spaces.Box) -> None:
        super().__init__()
        self.width = space.shape[0]
        self.register_buffer("low", torch.as_tensor(space.low).float())
        self.register_buffer("high", torch.as_tensor(space.high).float())

    def learned(self, action: Tensor) -> Tensor:
        """`[..., A]` in the box to [-1, 1]."""
        return to_unit(action, self.low, self.high)

    def played(self, action: Tensor) -> Tensor:
        """`[..., A]` in [-1, 1] to the box."""
        return from_unit(action, self.low, self.high)


class DiscreteUnits(ActionUnits):
    """A model counts from 0 on, and the environment from its space's start on.

    Args:
        space: the space of `n` actions.
    """

    start: Tensor
    discrete = True

    def __init__(self, space: gym.spaces.Discrete) -> None:
        super().__init__()
        self.width = int(space.n)
        self.register_buffer("start", torch.tensor(int(space.start)))

    def learned(self, action: Tensor) -> Tensor:
        """`[...]` integers of any type to int64 numbers from 0 on."""
        return action.long() - self.start

    def played(self, action: Tensor) -> Tensor:
        """`[...]` int64 numbers from 0 on to the space's."""
        return action + self.start


def action_units(space: gym.spaces.Box | gym.spaces.Discrete) -> BoxUnits | DiscreteUnits:
    """The units of a bounded flat box, or of numbered actions."""
    return DiscreteUnits(space) if isinstance(space, gym.spaces.Discrete) else BoxUnits(space)
