"""Models to plan with that are tables, so that the best action and its value are known."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from modules.networks.actors import DiscreteActor
from modules.networks.blocks import DenseStack

GAMMA = 0.9


class Corridor:
    """Five places in a row; a step left or right costs 1, and one beyond the right end gives 10 and stays there.

    Its policy is uniform; its values are those of the best policy, or 0 without `knowing`.

    Args:
        horizon: rewards are summed up to so many steps in a memory; None for each by itself.
        knowing: whether values are the best ones.
        steepness: how much the policy prefers the step to the left.
    """

    places = 5

    def __init__(self, horizon: int | None = None, knowing: bool = True, steepness: float = 0.0) -> None:
        self.horizon = horizon
        self.steepness = steepness
        self.value_head = self.reward_head = SimpleNamespace(mean=lambda x: x)
        self.value = best_values() if knowing else torch.zeros(self.places)
        self.broken = -1
        """Place in which values are no numbers."""

    def represent(self, observation: Mapping[str, Tensor]) -> Tensor:
        return observation["observation"]

    def memory(self, batch: int) -> Tensor:
        return torch.zeros(batch, 0 if self.horizon is None else 1)

    def step(self, latent: Tensor, memory: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        place, reward = moved(latent.squeeze(-1), action.argmax(-1))
        if self.horizon is not None:
            reward = reward + memory.squeeze(-1)
            memory = reward.unsqueeze(-1)
        return place.unsqueeze(-1), memory, reward

    def predict(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        place = latent.squeeze(-1)
        value = torch.where(place == self.broken, torch.nan, self.value[place.long()])
        lean = torch.tensor([self.steepness, 0.0]).log_softmax(-1)
        return lean.expand(len(place), 2), value


def moved(place: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """Places and rewards behind steps."""
    arrived = (place == Corridor.places - 1) & (action == 1)
    there = (place + 2.0 * action - 1.0).clamp(0.0, Corridor.places - 1.0)
    return there, torch.where(arrived, 10.0, -1.0)


def best_values() -> Tensor:
    """Values of going right all the time."""
    value = torch.zeros(Corridor.places)
    value[-1] = 10.0 / (1.0 - GAMMA)
    for place in range(Corridor.places - 2, -1, -1):
        value[place] = -1.0 + GAMMA * value[place + 1]
    return value


def seen(places: Any) -> dict[str, Tensor]:
    """Observations of places `[...]`."""
    return {"observation": torch.as_tensor(places, dtype=torch.float32).unsqueeze(-1)}


def two_steps() -> DiscreteActor:
    """A policy over left and right, whose parameters nobody uses."""
    return DiscreteActor(gym.spaces.Discrete(2), 1, lambda width, units: DenseStack(width, units, 1), 2)
