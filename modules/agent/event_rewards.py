"""Rewards that an agent learns from in place of the environment's: of events that its observations tell."""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium as gym
from torch import Tensor

from modules.arguments.checks import check_group, check_ranges
from modules.batch import SequenceBatch, Spaces
from modules.functional.internal_reward import internal_reward


@dataclass(frozen=True)
class EventRewards:
    """The worth of each event to the one that learns.

    Args:
        weights: reward of each event, in the order of the observation's numbers.
        key: key of the observation that tells what the step before it has done, a number for each event.

    Raises:
        ValueError: a field is of another type, or a weight is no finite number.
    """

    weights: tuple[float, ...]
    key: str = "events"

    def __post_init__(self) -> None:
        """Refuse what is no weight."""
        check_group("internal", self)
        check_ranges(*((f"internal.weights.{i}", weight, -1e12, 1e12) for i, weight in enumerate(self.weights)))

    def check_spaces(self, spaces: Spaces) -> None:
        """Refuse observations that do not tell so many events.

        Raises:
            ValueError: the key is missing, or is no vector with a number for each weight.
        """
        parts = spaces.observations_by_key()
        space = parts.get(self.key)
        if not isinstance(space, gym.spaces.Box) or space.shape != (len(self.weights),):
            raise ValueError(
                f"internal.key {self.key!r} must be an observation with one number for each of the "
                f"{len(self.weights)} internal.weights, got {space}; the observations are {', '.join(parts)}"
            )

    def check_data(self, data: object) -> None:
        """Refuse a scale of rewards that nobody would learn from.

        Raises:
            ValueError: data have one.
        """
        scale = getattr(data, "hparams", {}).get("reward_scale", 1.0)
        if scale != 1.0:
            raise ValueError(
                f"data.reward_scale {scale:g} would be ignored: with model.internal the rewards are those of events; "
                "leave it at 1 and scale internal.weights"
            )

    def of(self, rows: SequenceBatch) -> Tensor:
        """`[T, B]` rewards of the steps that led to each row; what happened is told by the row after the step."""
        return internal_reward(rows.observation[self.key], self.weights)
