"""Masks of actions: the part of an observation that says which numbered actions may be taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import gymnasium as gym
from torch import Tensor

from modules.batch import Spaces, brief

FORBIDDEN = -1e9
"""Logarithm of the probability of an action that may not be taken: finite, so that it times 0 is 0."""


def among_valid(log_prob: Tensor, valid: Tensor | None) -> Tensor:
    """Log-probabilities `[..., A]` of numbered actions, given that one is taken that `valid` `[..., A]` allows."""
    return log_prob if valid is None else log_prob.masked_fill(~valid, FORBIDDEN).log_softmax(-1)


class ActionMask:
    """Reads the mask in observations, if they have one, and knows what is left to be seen without it.

    Args:
        spaces: announced by the datamodule.
        key: key of the mask in Dict observations.

    Attributes:
        key: the key; None, if there is no such part.
        seen: the spaces without the mask.

    Raises:
        ValueError: the mask is no vector with one number for each of Discrete actions, or there is nothing besides it.
    """

    def __init__(self, spaces: Spaces, key: str) -> None:
        parts = spaces.observations_by_key()
        self.key = key if isinstance(spaces.observation, gym.spaces.Dict) and key in parts else None
        self.seen = spaces
        if self.key is None:
            return
        shape, action = parts.pop(key).shape, spaces.action
        if not isinstance(action, gym.spaces.Discrete) or shape != (action.n,):
            raise ValueError(
                f"the observation {key!r}, of shape {list(shape or ())}, must hold one number for each of Discrete "
                f"actions, which are {brief(action)}; name the mask's key as mask_key"
            )
        if not parts:
            raise ValueError(f"there is nothing to observe besides the mask of actions {key!r}")
        mean, std = ({k: x for k, x in s.items() if k != key} if isinstance(s, dict) else s
                     for s in (spaces.observation_mean, spaces.observation_std))  # fmt: skip
        self.seen = replace(spaces, observation=gym.spaces.Dict(parts), observation_mean=mean, observation_std=std)

    def check(self, observation: Mapping[str, Tensor], padding: Tensor) -> None:
        """Refuse sequences in which nothing may be done and yet something was, by `[L, B]` observations and padding.

        Raises:
            ValueError: it names the mask.
        """
        valid = self.valid(observation)
        if valid is not None and bool((~valid.any(-1)[:-1] & ~padding[1:]).any()):
            raise ValueError(
                f"the mask {self.key!r} allows no action in a state that others follow: only the last state of an "
                "episode may have none"
            )

    def valid(self, observation: Mapping[str, Tensor]) -> Tensor | None:
        """Bool `[..., A]` of `{key: [..., ...]}`, which actions may be taken; None, if there is no mask."""
        return None if self.key is None else observation[self.key] != 0
