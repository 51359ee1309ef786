"""Small PPO agents for every kind of observation and action."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import torch
from a2c_agents import AWAY, TASKS, VECTOR, layer, seeing
from dreamer_agents import TURN

from callbacks.popart import PopArt
from modules.algorithms.ppo import PPO
from modules.batch import Spaces
from modules.experts.layer import SparseMoE
from modules.networks.actors import TanhNormalActor, TruncatedNormalActor
from modules.networks.value_codecs import TwoHot
from modules.networks.value_heads import Head, PopArtHead

SETTINGS: dict[str, dict[str, Any]] = {
    "discrete": {},
    "separate": {"separate": True},
    "normal": {"action": AWAY},
    "truncated": {"action": AWAY, "continuous": TruncatedNormalActor},
    "tanh": {"action": AWAY, "continuous": TanhNormalActor, "separate": True},
    "multi-discrete": {"action": gym.spaces.MultiDiscrete([3, 2], start=[1, 0])},
    "tasks": {**TASKS, "value_clip": 0.5},
    "two-hot": {"critic": partial(Head, codec=TwoHot)},
    "value clip": {"value_clip": 0.1},
    "normalised": {"critic": PopArtHead, "separate": True},
    "mixture": {"trunk": partial(SparseMoE, num_experts=3, k=1, hidden=8), "separate": True},
}


def make(
    observation: gym.Space = VECTOR, action: gym.Space = TURN, popart: PopArt | None = None, **settings: Any
) -> PPO:
    torch.manual_seed(0)
    small = {"encoder": seeing, "trunk": layer, "units": 8, "passes": 3, "minibatches": 2}
    agent = PPO(Spaces(observation, action), **{**small, **settings})
    if popart is not None:
        popart.optimizers = [agent.optimizer]
        agent.attach(popart)
    return agent
