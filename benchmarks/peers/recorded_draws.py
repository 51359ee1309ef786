"""Recorded updates of other libraries: sizes and batches that they share, and every random draw in its order.

Needs torch and numpy alone: the scripts beside it run in environments that have the other library and not this project.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.distributions import normal

SIZES = json.loads(os.environ.get("RECORDED_SIZES", "{}"))
"""Sizes that are not those of the committed files: `observation`, `action`, `choices`, `batch`, `hidden`."""

OBSERVATION, ACTION, CHOICES = SIZES.get("observation", 5), SIZES.get("action", 2), SIZES.get("choices", 3)
BATCH, HIDDEN, UPDATES = SIZES.get("batch", 8), SIZES.get("hidden", [16, 16]), 2
RATE = 0.01
"""Of every optimiser that is not switched off."""


def make_batch(seed: int, discrete: bool) -> dict[str, np.ndarray]:
    """Transitions with rewards around 1, of which two end their episode."""
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(BATCH, 2 * OBSERVATION + ACTION + 1)).astype(np.float32)
    observations, next_observations, actions, rewards = np.split(
        numbers, np.cumsum([OBSERVATION, OBSERVATION, ACTION]), axis=1
    )
    terminals = np.zeros((BATCH, 1), np.float32)
    terminals[[2, 5]] = 1.0
    return {
        "observations": observations,
        "actions": rng.integers(CHOICES, size=(BATCH, 1)) if discrete else np.tanh(actions),
        "rewards": 1.0 + 0.5 * rewards,
        "next_observations": next_observations,
        "terminals": terminals,
    }


@contextmanager
def recorded() -> Iterator[list[np.ndarray]]:
    """A list to which every draw inside is added: unit normal numbers before they are scaled, uniform ones as drawn."""
    found: list[np.ndarray] = []

    def keep(function: Any) -> Any:
        def draw(*arguments: Any, **named: Any) -> torch.Tensor:
            x = function(*arguments, **named)
            found.append(x.detach().numpy().copy())
            return x

        return draw

    with (
        patch.object(torch, "randn", keep(torch.randn)),
        patch.object(normal, "_standard_normal", keep(normal._standard_normal)),
        patch.object(torch.Tensor, "uniform_", keep(torch.Tensor.uniform_)),
    ):
        yield found


def parameters(modules: Mapping[str, torch.nn.Module], when: str) -> dict[str, np.ndarray]:
    """All parameters of all modules, by the time at which they are looked at."""
    named = {f"{when}/{m}.{name}": p for m, module in modules.items() for name, p in module.named_parameters()}
    return {name: p.detach().numpy().copy() for name, p in named.items()}
