"""Behaviour policies of recorded datasets: small callables from what `B` environments show to a batch of actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from datamodules.played.policies import RandomPolicy


class Moment(NamedTuple):
    """All that a behaviour may look at when it acts in `B` environments.

    Attributes:
        observation: `[B, ...]`, or by key.
        first: `[B]` bool, the observation is the first of its episode.
        reward: `[B]` float32 received on arriving at the observation; 0 at a first one.
        action: `[B, ...]` action that led to the observation, with all noise; of no meaning at a first one. None before
            the first step.
    """

    observation: Any
    first: np.ndarray
    reward: np.ndarray
    action: np.ndarray | None


Behaviour = Callable[[Moment], np.ndarray]
"""A moment in, actions `[B, A]`, or `[B]` of numbered ones, in the environments' units out."""


def swing_up(moment: Moment) -> np.ndarray:
    """Noise-free swing-up of Pendulum-v1: pump energy while hanging, catch with a PD controller near the top.

    With the angle `a` measured from the top, the pendulum follows `a'' = 15 sin a + 3 u`. The energy
    `a'^2 / 2 + 15 cos a` is 15 at rest on the top; a torque along the velocity, in proportion to what is missing,
    reaches that level from everywhere (Astrom & Furuta, "Swinging up a pendulum by energy control", 2000). The gains
    were chosen by a grid search on the environment's own equations; the return is flat around them.

    Args:
        moment: observations `[B, 3]`: cosine, sine and velocity of the angle.

    Returns:
        `[B, 1]` torque in [-2, 2].
    """
    cosine, sine, velocity = moment.observation.T
    angle = np.arctan2(sine, cosine)
    missing = 15.0 - (0.5 * velocity**2 + 15.0 * cosine)
    pump = 3.0 * missing * np.where(velocity >= 0, 1.0, -1.0)
    catch = -(12.0 * angle + 2.5 * velocity)
    torque = np.where(np.abs(angle) < 0.5, catch, pump)
    return np.clip(torque, -2.0, 2.0)[:, None].astype(np.float32)


def balance(moment: Moment) -> np.ndarray:
    """Balance the pole of CartPole-v1: push to the side that it falls to, and slowly back to the middle.

    A linear rule in all four numbers; with small weights on the cart's own it keeps the pole up for all 500 steps.

    Args:
        moment: observations `[B, 4]`: position and velocity of the cart, angle and velocity of the pole.

    Returns:
        `[B]` 0 for left, 1 for right.
    """
    return (moment.observation @ np.array([0.1, 0.3, 3.0, 1.0]) > 0).astype(np.int64)


def catch_ball(moment: Moment) -> np.ndarray:
    """Play `reverie/Catch-v0` perfectly: move the paddle to the column of the ball.

    Args:
        moment: observations `[B, rows, columns, 1]`: board with a bright ball, and a bright paddle in the bottom row.

    Returns:
        `[B]` 0 for left, 1 to stay, 2 for right.
    """
    board = moment.observation[..., 0] > 0
    ball, paddle = board[:, :-1].any(1).argmax(-1), board[:, -1].argmax(-1)
    return np.sign(ball - paddle) + 1


CONTROLLERS: dict[str, Behaviour] = {
    "Pendulum-v1": swing_up,
    "CartPole-v1": balance,
    "reverie/Catch-v0": catch_ball,
}
"""Noise-free controllers by environment id."""


def at_random(random: RandomPolicy) -> Behaviour:
    """The random policy of as many environments as are played."""
    return lambda moment: random(moment.observation)


def with_noise(behaviour: Behaviour, level: float, space: gym.spaces.Box, rng: np.random.Generator) -> Behaviour:
    """Add Gaussian noise to every action and clip to the space.

    Args:
        behaviour: policy whose actions get the noise.
        level: standard deviation of the noise, in half-widths of the action space.
        space: bounded action space.
        rng: source of the noise.
    """
    scale = level * (space.high - space.low) / 2

    def act(moment: Moment) -> np.ndarray:
        action = behaviour(moment)
        noisy = action + scale * rng.standard_normal(action.shape)
        return np.clip(noisy, space.low, space.high).astype(space.dtype)

    return act


def with_random(behaviour: Behaviour, epsilon: float, random: RandomPolicy) -> Behaviour:
    """Replace each action, with probability `epsilon`, by one of the random policy.

    Args:
        behaviour: policy whose actions are kept otherwise.
        epsilon: probability of a random action.
        random: random policy of as many environments as `behaviour` acts in; its generator also chooses the rows.
    """

    def act(moment: Moment) -> np.ndarray:
        action = behaviour(moment)
        chosen = random.generator.random(len(action)) < epsilon
        return np.where(chosen.reshape(-1, *[1] * (action.ndim - 1)), random(moment.observation), action)

    return act
