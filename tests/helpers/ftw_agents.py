"""Small For-the-Win agents."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import torch
from a2c_agents import layer, seeing

from datamodules.envs.make import EnvironmentSpec
from modules.algorithms.ftw import FTW
from modules.batch import Spaces
from modules.networks.two_timescale import TwoTimescale

PICTURES = EnvironmentSpec("reverie/Catch-v0", {"rows": 4, "columns": 3})


def make(environment: EnvironmentSpec = PICTURES, **settings: Any) -> FTW:
    """An agent of some thousand parameters; names that begin with `memory.` are of its core."""
    env = environment.make()
    control = 0.1 if environment is PICTURES else 0.0
    return made(env.observation_space, env.action_space, **{"pixel_control": control, **settings})


def made(observation: gym.Space, action: gym.Space, **settings: Any) -> FTW:
    """As `make`, for these spaces."""
    torch.manual_seed(0)
    core = {name.partition(".")[2]: settings.pop(name) for name in list(settings) if name.startswith("memory.")}
    memory = partial(TwoTimescale, **{"width": 5, "latents": 4, "tau": 3, **core})
    small = {
        "encoder": seeing,
        "trunk": layer,
        "units": 8,
        "memory": memory,
        "lr": 1e-2,
        "pixel_control": 0.1,
        "cell": 2,
    }
    return FTW(Spaces(observation, action), **{**small, **settings})
