"""Which spaces a dataset has: given, stored in it, those of its environment, or guessed from the data."""

from __future__ import annotations

import logging

import gymnasium as gym

from datamodules.envs.make import offered_spaces
from datamodules.envs.recorded_environment import Changes, check_recorded
from datamodules.recorded.description import Description
from datamodules.recorded.guessed_spaces import guess_action_space, guess_observation_space
from modules.batch import brief

logger = logging.getLogger(__name__)


def resolve_spaces(
    description: Description, asked: Changes, observation: gym.Space | None, action: gym.Space | None
) -> tuple[gym.Space, gym.Space]:
    """Observation and action space of a dataset, in this order: given, stored, the environment's, guessed.

    Args:
        description: the dataset as its file describes it.
        asked: the user's description of its environment.
        observation: space that the user gives, or None.
        action: the user's action space.

    Raises:
        ValueError: a space is of a kind that is not supported, another environment is asked for, or the one that the
            file names may not be made.
    """
    observation = observation if observation is not None else description.observation_space
    action = action if action is not None else description.action_space
    if description.environment is not None and asked.id is not None:
        check_recorded(description.location, description.environment["id"], asked.id)
    if observation is None or action is None:
        spec = asked.on_recorded(description.environment, description.location)
        try:
            offered = offered_spaces(spec.bare()) if spec is not None else None
        except ValueError as error:
            if description.environment is None or asked.arguments or asked.wrappers is not None:
                raise  # the user named it
            logger.warning("%s: %s", description.location, error)
            offered = None
        if offered is not None:
            observation = observation if observation is not None else offered.observation
            action = action if action is not None else offered.action
    if observation is None or action is None:
        # Says so, because bounds that are too tight limit the policy.
        observation = observation if observation is not None else guess_observation_space(description)
        action = action if action is not None else guess_action_space(description)
        logger.warning(
            "%s names no environment and no spaces were given: inferred observation space %s and action space %s from "
            "the data; give action_space if the true bounds are wider",
            description.location,
            observation,
            action,
        )
    if not isinstance(action, gym.spaces.Box | gym.spaces.Discrete):
        raise ValueError(
            f"{description.location}: the action space is {brief(action)}; only Box or Discrete is supported here"
        )
    return observation, action
