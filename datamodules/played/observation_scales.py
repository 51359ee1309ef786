"""Scales of an environment's observations: from their bounds, and from a random policy where there are none."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from datamodules.envs.stepping import RowStream
from datamodules.played.policies import RandomPolicy
from modules.batch import Spaces

STATISTICS_STEPS = 1000
FINITE = 1e6
"""Size of the largest bounds that are taken for real ones; larger ones are formal."""


def observation_scales(env: gym.Env, seed: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Centre and scale of every number of every vector of the observation but those of bytes, by key.

    A number with finite bounds is scaled by them, so that its range becomes [-2, 2]; a random policy may cover little
    of that range. Any other is scaled to mean 0 and deviation 1 over steps of a random policy; one that never changes
    gets the scale 1, and so stays near zero.

    Args:
        env: environment, which is reset and stepped.
        seed: seed of the environment and of the random policy.

    Returns:
        Centres and scales `[D]`; empty where the observation has no such vector.
    """
    parts = Spaces(env.observation_space, env.action_space).observations_by_key()
    boxes = {key: x for key, x in parts.items() if isinstance(x, gym.spaces.Box) and len(x.shape) == 1}
    boxes = {key: box for key, box in boxes.items() if box.dtype.itemsize > 1}  # neither bytes nor zeros and ones
    if not boxes:
        return {}, {}
    # Bounds where they are finite, statistics elsewhere.
    centres, scales = {}, {}
    for key, rows in random_rows(env, list(boxes), seed).items():
        low, high = boxes[key].low, boxes[key].high
        bounded = (np.abs(low) < FINITE) & (np.abs(high) < FINITE) & (low < high)
        low, high = np.where(bounded, low, 0.0), np.where(bounded, high, 1.0)
        std = rows.std(0)
        centres[key] = np.where(bounded, (low + high) / 2, rows.mean(0)).astype(np.float32)
        scales[key] = np.where(bounded, (high - low) / 4, np.where(std < 1e-6, 1.0, std)).astype(np.float32)
    return centres, scales


def random_rows(env: gym.Env, keys: list[str], seed: int) -> dict[str, np.ndarray]:
    """`[STATISTICS_STEPS, D]` observations under random actions, by key, the first ones of episodes among them."""
    stream = RowStream(SyncVectorEnv([lambda: env], autoreset_mode=AutoresetMode.NEXT_STEP))
    policy = RandomPolicy(env.action_space, None, seed)
    rows: dict[str, list[np.ndarray]] = {key: [] for key in keys}
    row = stream.reset(seed)
    for _ in range(STATISTICS_STEPS):
        for key in keys:
            observation = row.observation[key] if isinstance(row.observation, dict) else row.observation
            rows[key].append(observation[0].astype(np.float32))
        if not stream.ended[0]:  # a reset takes no action, so that none is drawn for it
            seen = row.observation
            action = policy({key: x[0] for key, x in seen.items()} if isinstance(seen, dict) else seen)
        row = stream.step(np.expand_dims(action, 0))
    return {key: np.stack(values) for key, values in rows.items()}
