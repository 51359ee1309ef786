"""Field names, shapes and dtypes of every training batch: the contract between data and learners.

Axis letters, everywhere in this project: `T` time, `B` batch, `N` tree nodes, `A` actions, `D` features, `K` bins,
`E` experts, `M` ensemble or population members, `H` horizon.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import NamedTuple

import gymnasium as gym
import numpy as np
from minari.serialization import deserialize_space, serialize_space
from tensordict import TensorDict, TensorDictBase
from torch import Tensor


@dataclass(frozen=True)
class Spaces:
    """What a datamodule announces to an agent before any batch is drawn.

    Attributes:
        observation: space of one observation, not batched.
        action: space of one action, in the environment's own units.
        observation_mean: `[D]` mean that the agent subtracts from observations, or None for no normalisation.
        observation_std: `[D]` standard deviation that the agent divides by; given exactly when the mean is.
    """

    observation: gym.Space
    action: gym.Space
    observation_mean: np.ndarray | None = None
    observation_std: np.ndarray | None = None

    def flat_boxes(self) -> tuple[gym.spaces.Box, gym.spaces.Box]:
        """The two spaces, checked: a `[D]` Box of observations and a bounded `[A]` Box of actions.

        Raises:
            ValueError: the spaces are of another kind.
        """
        observation, action = self.observation, self.action
        if not isinstance(observation, gym.spaces.Box) or len(observation.shape) != 1:
            raise ValueError(f"this agent needs a flat Box of observations, got {observation}")
        if not isinstance(action, gym.spaces.Box) or len(action.shape) != 1 or not action.is_bounded():
            raise ValueError(f"this agent needs a bounded flat Box of actions, got {action}")
        return observation, action

    def to_json(self) -> str:
        """The two spaces as one JSON string; statistics travel in the agent's state_dict instead."""
        return json.dumps({"observation": serialize_space(self.observation), "action": serialize_space(self.action)})

    @classmethod
    def from_json(cls, text: str) -> Spaces:
        """Inverse of `to_json`."""
        fields = json.loads(text)
        return cls(deserialize_space(fields["observation"]), deserialize_space(fields["action"]))


def check_same_spaces(what: str, known: Spaces, environment: str, offered: Spaces) -> None:
    """Refuse to use something, such as a checkpoint, with an environment whose spaces are of another kind or shape.

    Args:
        what: name of the thing, for the error.
        known: the spaces that it is made for.
        environment: name of the environment, for the error.
        offered: the spaces of the environment.

    Raises:
        ValueError: the kinds or shapes differ.
    """
    for field in ("observation", "action"):
        mine, theirs = getattr(known, field), getattr(offered, field)
        if type(mine) is not type(theirs) or mine.shape != theirs.shape:
            raise ValueError(
                f"{what} does not fit {environment}: its {field} space is {mine}, the environment's is {theirs}"
            )


class Transition(NamedTuple):
    """One step of experience per row; actions are in the environment's units.

    Attributes:
        observation: `[B, D]` observation before the action.
        action: `[B, A]` action taken.
        reward: `[B]` reward received after the action.
        next_observation: `[B, D]` observation after the action; at a time-out the true last one, never a reset.
        terminated: `[B]` bool, the episode ended in a terminal state: nothing is bootstrapped.
        truncated: `[B]` bool, the episode was cut by a time limit: the value is bootstrapped.
        initial_observation: `[B, D]` first observations of episodes drawn independently of the rows, or None.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    next_observation: Tensor
    terminated: Tensor
    truncated: Tensor
    initial_observation: Tensor | None = None

    @classmethod
    def from_tensordict(cls, batch: TensorDictBase) -> Transition:
        """Read TorchRL's TED layout: `observation`, `action`, `next/{observation, reward, terminated, truncated}`.

        Reward and flags are stored as `[B, 1]` there and are returned as `[B]` views; `initial_observation` is
        optional.
        """
        following = batch["next"]
        return cls(
            batch["observation"],
            batch["action"],
            following["reward"].squeeze(-1),
            following["observation"],
            following["terminated"].squeeze(-1),
            following["truncated"].squeeze(-1),
            batch.get("initial_observation", None),
        )


class Example(NamedTuple):
    """One supervised example per row.

    Attributes:
        input: `[B, D]` what the network sees.
        target: `[B, A]` what it should say.
        group: `[B]` int64 number of the part of the problem that the row belongs to, such as its latent task; the
            network does not see it.
    """

    input: Tensor
    target: Tensor
    group: Tensor

    @classmethod
    def from_tensordict(cls, batch: TensorDictBase) -> Example:
        """Inverse of `to_tensordict`."""
        return cls(batch["input"], batch["target"], batch["group"])

    def to_tensordict(self) -> TensorDict:
        """`[B]` TensorDict of the fields by name."""
        return TensorDict(self._asdict(), [len(self.input)])
