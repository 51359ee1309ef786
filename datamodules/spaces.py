"""Which spaces a dataset has: given, stored in it, those of its environment, or inferred from the data."""

from __future__ import annotations

import logging

import gymnasium as gym
import numpy as np

from datamodules.envs.recorded import Changes, check_recorded
from datamodules.record import Record

logger = logging.getLogger(__name__)


def resolve_spaces(
    record: Record, asked: Changes, observation: gym.Space | None, action: gym.Space | None
) -> tuple[gym.Space, gym.Space]:
    """Observation and action space of a record, in this order: given, stored, the environment's, inferred.

    Args:
        record: the dataset.
        asked: what the user says about its environment.
        observation: space that the user gives, or None.
        action: likewise.

    Raises:
        ValueError: a space is of a kind that is not supported, or another environment is asked for.
    """
    observation = observation if observation is not None else record.observation_space
    action = action if action is not None else record.action_space
    if record.environment is not None and asked.id is not None:
        check_recorded(record.location, record.environment["id"], asked.id)
    if observation is None or action is None:
        try:
            spec = asked.on_recorded(record.environment, record.location)
            env = spec.make() if spec is not None else None
        except ValueError as error:
            if record.environment is None or asked.arguments or asked.wrappers is not None:
                raise  # the user named it
            logger.warning("%s: %s", record.location, error)
            env = None
        if env is not None:
            observation = observation if observation is not None else env.observation_space
            action = action if action is not None else env.action_space
            env.close()
    if observation is None or action is None:
        inferred_observation, inferred_action = _infer(record)
        observation = observation if observation is not None else inferred_observation
        action = action if action is not None else inferred_action
    _check_kind(record.location, "observation", observation, (gym.spaces.Box,))
    _check_kind(record.location, "action", action, (gym.spaces.Box, gym.spaces.Discrete))
    return observation, action


def _infer(record: Record) -> tuple[gym.Space, gym.Space]:
    """Spaces from one pass over the data; says so, because bounds that are too tight limit the policy."""
    lows, highs = [], []
    for chunk in record.chunks():
        lows.append(chunk.action.min(0))
        highs.append(chunk.action.max(0))
    observed, acted = chunk.observation, chunk.action
    low, high = np.stack(lows).min(0), np.stack(highs).max(0)
    observation: gym.Space = gym.spaces.Box(-np.inf, np.inf, observed.shape[1:], np.float32)
    if not np.issubdtype(observed.dtype, np.floating):
        limits = np.iinfo(observed.dtype)
        observation = gym.spaces.Box(limits.min, limits.max, observed.shape[1:], observed.dtype.type)
    action: gym.Space
    if np.issubdtype(acted.dtype, np.integer) and acted.ndim == 1:
        action = gym.spaces.Discrete(int(high) + 1)
    elif not (np.isfinite(low).all() and np.isfinite(high).all()):
        action = gym.spaces.Box(-np.inf, np.inf, low.shape, np.float32)  # the check that follows names the row
    elif (low >= -1).all() and (high <= 1).all():
        action = gym.spaces.Box(-1.0, 1.0, low.shape, np.float32)
    else:
        action = gym.spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
    logger.warning(
        "%s names no environment and no spaces were given: inferred observation space %s and action space %s from the "
        "data; give action_space if the true bounds are wider",
        record.location,
        observation,
        action,
    )
    return observation, action


def _check_kind(location: str, field: str, space: gym.Space, kinds: tuple[type, ...]) -> None:
    if not isinstance(space, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{location}: the {field} space is {space}; only {names} is supported here")
