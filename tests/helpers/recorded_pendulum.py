"""Pendulum, recorded with Minari as it is made: with arguments, a time limit and wrappers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer

STEPS = 4


def halved(**arguments: Any) -> gym.Env:
    """A light pendulum of four steps whose actions are given as half of what they do."""
    made = gym.make("Pendulum-v1", max_episode_steps=STEPS, render_mode="rgb_array", **({"g": 1.0} | arguments))
    return gym.wrappers.RescaleAction(gym.wrappers.RecordEpisodeStatistics(made), -1.0, 1.0)


def record(name: str, env: gym.Env, episodes: int = 3, **options: Any) -> Path:
    """Random episodes below `$MINARI_DATASETS_PATH`; returns the dataset's folder."""
    env.action_space.seed(0)
    buffers = []
    for episode in range(episodes):
        observation, _ = env.reset(seed=episode)
        observations, actions, rewards, ends = [observation], [], [], []
        while not (ends and any(ends[-1])) and len(ends) < 200:
            actions.append(env.action_space.sample())
            observation, reward, terminated, truncated, _ = env.step(actions[-1])
            observations.append(observation)
            rewards.append(float(reward))
            ends.append((terminated, truncated))
        buffers.append(
            EpisodeBuffer(
                id=episode,
                observations=np.stack(observations),
                actions=np.stack(actions),
                rewards=rewards,
                terminations=[end for end, _ in ends],
                truncations=[cut for _, cut in ends],
            )
        )
    minari.create_dataset_from_buffers(name, buffers, env=env, **options)
    return Path(os.environ["MINARI_DATASETS_PATH"]) / name


def change(folder: Path, **entries: Any) -> None:
    """Give entries of a dataset's metadata other values; None takes one away."""
    file = folder / "data" / "metadata.json"
    metadata = json.loads(file.read_text()) | entries
    file.write_text(json.dumps({key: value for key, value in metadata.items() if value is not None}))


def change_spec(folder: Path, **entries: Any) -> None:
    """As `change`, of the environment in the metadata."""
    metadata = json.loads((folder / "data" / "metadata.json").read_text())
    spec = json.dumps(json.loads(metadata["env_spec"]) | entries)
    change(folder, env_spec=spec, eval_env_spec=spec)
