"""Small agents, and the environment that shows and takes whatever spaces it is given."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import shown  # noqa: F401  # registers Shown-v0
from gymnasium.spaces import Box, Discrete, Space

from datamodules.envs.make import EnvironmentSpec
from modules.agent.agent import Agent
from modules.algorithms.a2c import A2C
from modules.algorithms.dreamer import DreamerV2
from modules.algorithms.r2d2 import R2D2
from modules.batch import Spaces
from modules.networks.blocks import DenseStack
from modules.networks.recurrent import LSTM, ActionValues
from modules.world_model.latents import CategoricalLatent
from modules.world_model.world_model import WorldModel

BYTES = functools.partial(Box, 0, 255, dtype=np.uint8)


def spec(observation: Space, action: Space | None = None, *wrappers: Any) -> EnvironmentSpec:
    action = action or Discrete(2)
    return EnvironmentSpec("Shown-v0", {"observation": observation, "action": action}, wrappers)


TRUNK = functools.partial(DenseStack, layers=1)


def dreamer(spaces: Spaces) -> Agent:
    latent = functools.partial(CategoricalLatent, groups=2, classes=2)
    model = functools.partial(WorldModel, latent=latent, deter=8, hidden=8, trunk=TRUNK, units=8)
    return DreamerV2(spaces, world_model=model)


def r2d2(spaces: Spaces) -> Agent:
    return R2D2(spaces, network=functools.partial(ActionValues, units=8, memory=functools.partial(LSTM, width=8)))


def a2c(spaces: Spaces) -> Agent:
    return A2C(spaces, units=8, trunk=TRUNK)
