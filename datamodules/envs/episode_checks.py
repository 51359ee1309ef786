"""What is checked of episodes that are counted or stored whole: finite numbers, an end, and no failure."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from datamodules.envs.contract import check_finite
from datamodules.envs.restarting import RESTARTED

MAX_EPISODE_STEPS = 100_000
"""Steps of an episode, beyond which it is taken to have no end, where nothing else is asked for."""


def check_step(
    name: str,
    observation: Any,
    reward: np.ndarray,
    steps: np.ndarray,
    counted: np.ndarray,
    seeds: Sequence[int],
    limit: int,
    option: str = "",
) -> None:
    """Refuse a step of `N` copies that makes an episode worthless.

    Args:
        name: of the environment, for errors.
        observation: `[N, ...]`, or by key.
        reward: `[N]`.
        steps: `[N]` steps of the episodes so far, this one included.
        counted: `[N]` bool, the copy's episode counts.
        seeds: `N`, of the episodes.
        limit: steps of an episode, at most.
        option: end of the error's advice, where there is an option for the limit.

    Raises:
        ValueError: something is NaN or infinite, or an episode has no end; the message names environment and seed.
    """
    parts = observation.items() if isinstance(observation, Mapping) else [("", observation)]
    check_finite(name, "reward", reward[None], counted, seeds)
    for key, values in parts:
        check_finite(name, f"observation {key!r}" if key else "observation", values[None], counted, seeds)
    too_long = counted & (steps > limit)
    if too_long.any():
        seed = seeds[int(np.argmax(too_long))]
        raise ValueError(
            f"environment {name!r}: the episode of seed {seed} is longer than {limit} steps: give it a time limit, "
            f"with the wrapper gymnasium.wrappers.TimeLimit for example{option}"
        )


def failed(name: str, info: Mapping[str, Any], copies: int) -> np.ndarray:
    """`[N]` bool, the copy's episode ended by a failure that was forgiven; a warning says so."""
    told = info.get(RESTARTED)
    if told is None:
        return np.zeros(copies, bool)
    for text in filter(None, told):
        warnings.warn(
            f"environment {name!r} failed and is made anew; the episode is played again: {text}", stacklevel=2
        )
    return np.array([text is not None for text in told])
