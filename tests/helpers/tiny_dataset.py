"""A tiny dataset with known answers, written in every format that can be read.

Three episodes of 4, 3 and 5 steps: a time-out, a terminal state, and a recording that simply stops. The first feature
of the observation counts `100 * episode + t`, so that a true next observation is always the observation plus one.
"""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium as gym
import h5py
import minari
import numpy as np
import torch
from minari.data_collector.episode_buffer import EpisodeBuffer
from tensordict import TensorDict

LENGTHS = (4, 3, 5)
Arrays = dict[str, np.ndarray]
OBSERVATION_SPACE = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
ACTION_SPACE = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)


def make_arrays() -> Arrays:
    """The steps and `final_observations`, in the layout of a flat file."""
    rng = np.random.default_rng(0)
    counters = np.concatenate([100 * e + np.arange(n) for e, n in enumerate(LENGTHS)])
    steps = len(counters)
    observations = np.stack([counters, counters * 0.5, -counters], 1).astype(np.float32)
    final = np.array([100 * e + n for e, n in enumerate(LENGTHS)])
    terminals, timeouts = np.zeros(steps, np.uint8), np.zeros(steps, np.uint8)
    timeouts[3] = terminals[6] = 1
    return {
        "observations": observations,
        "actions": rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        "rewards": np.arange(steps, dtype=np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
        "final_observations": np.stack([final, final * 0.5, -final], 1).astype(np.float32),
        "episode_lengths": np.array(LENGTHS, np.int32),
    }


def write_hdf5(path: Path, arrays: Arrays, meta: dict | None = None) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
        if meta is not None:
            file.attrs["meta"] = json.dumps(meta)
    return path


def write_minari(arrays: Arrays, data_format: str, **options: object) -> str:
    """Write to `$MINARI_DATASETS_PATH`; returns the id."""
    buffers, start = [], 0
    for episode, length in enumerate(LENGTHS):
        rows = slice(start, start + length)
        buffers.append(
            EpisodeBuffer(
                id=episode,
                observations=np.concatenate([arrays["observations"][rows], arrays["final_observations"][[episode]]]),
                actions=arrays["actions"][rows],
                rewards=list(arrays["rewards"][rows].astype(np.float64)),
                terminations=list(arrays["terminals"][rows].astype(bool)),
                truncations=list(arrays["timeouts"][rows].astype(bool)),
                infos={},
            )
        )
        start += length
    name = f"tiny/{data_format}-v0"
    minari.create_dataset_from_buffers(
        name,
        buffers,
        observation_space=OBSERVATION_SPACE,
        action_space=ACTION_SPACE,
        data_format=data_format,
        **options,
    )
    return name


def write_memmap(path: Path, arrays: Arrays) -> Path:
    ends = np.cumsum(arrays["episode_lengths"]) - 1
    following = np.roll(arrays["observations"], -1, 0)
    following[ends] = arrays["final_observations"]
    data = {
        "observation": arrays["observations"],
        "action": arrays["actions"],
        ("next", "observation"): following,
        ("next", "reward"): arrays["rewards"][:, None],
        ("next", "terminated"): arrays["terminals"][:, None].astype(bool),
        ("next", "truncated"): arrays["timeouts"][:, None].astype(bool),
    }
    TensorDict({k: torch.from_numpy(v) for k, v in data.items()}, [len(following)]).memmap_(path)
    return path
