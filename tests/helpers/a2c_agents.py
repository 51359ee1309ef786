"""Small A2C agents for every kind of observation and action, and windows to learn from."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from dreamer_agents import TURN
from tensordict import TensorDict
from torch import Tensor

from callbacks.popart import PopArt
from modules.agent.on_policy import OnPolicy
from modules.algorithms.a2c import A2C
from modules.batch import Spaces
from modules.experts.layer import SparseMoE
from modules.networks.actors import TanhNormalActor
from modules.networks.blocks import DenseStack
from modules.networks.encoders import Encoder
from modules.networks.value_codecs import Quantiles, TwoHot
from modules.networks.value_heads import Head, PopArtHead

VECTOR = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
TASK = gym.spaces.Box(0.0, 1.0, (2,), np.float32)
IMAGE = gym.spaces.Box(0, 255, (5, 4, 1), np.uint8)
GAMES = gym.spaces.Dict({"image": IMAGE, "task": TASK})
AWAY = gym.spaces.Box(2.0, 3.0, (2,), np.float32)  # 0 is no action of it

layer = partial(DenseStack, layers=1)
seeing = partial(Encoder, image_network="mlp")
TASKS: dict[str, Any] = {"observation": GAMES, "critic": partial(PopArtHead, tasks=2), "task_key": "task"}
SETTINGS: dict[str, dict[str, Any]] = {
    "discrete": {},
    "continuous": {"action": AWAY},
    "tanh": {"action": AWAY, "continuous": TanhNormalActor},
    "multi-discrete": {"action": gym.spaces.MultiDiscrete([3, 2], start=[1, 0])},
    "tasks": TASKS,
    "two-hot": {"critic": partial(Head, codec=TwoHot)},
    "quantiles": {"critic": partial(Head, codec=Quantiles)},
    "residual": {"residual_weight": 0.5},
    "mixture": {"trunk": partial(SparseMoE, num_experts=3, k=1, hidden=8)},
}


def make(
    observation: gym.Space = VECTOR, action: gym.Space = TURN, popart: PopArt | None = None, **settings: Any
) -> A2C:
    torch.manual_seed(0)
    agent = A2C(Spaces(observation, action), **{"encoder": seeing, "trunk": layer, "units": 8, **settings})
    if popart is not None:
        popart.optimizers = [agent.optimizer]
        agent.attach(popart)
    return agent


def windows(agent: OnPolicy, rows: int = 4, steps: int = 7, seed: int = 1, size: float = 1.0) -> TensorDict:
    """Random windows `[B, T]` in which episodes end, by themselves and by time."""
    torch.manual_seed(seed)
    parts = copy.deepcopy(agent.spaces.observations_by_key())
    action = copy.deepcopy(agent.spaces.action)
    for space in (*parts.values(), action):
        space.seed(seed)
    shape = [rows, steps]

    def draws(space: gym.Space) -> Tensor:
        return torch.from_numpy(np.stack([[space.sample() for _ in range(steps)] for _ in range(rows)]))

    observation = {key: draws(space) for key, space in parts.items()}
    if "task" in observation:
        observation["task"] = torch.eye(2)[torch.randint(2, shape)]
    flags = {name: torch.zeros(shape, dtype=torch.bool) for name in ("is_first", "terminated", "truncated")}
    flags["terminated"][1, 2] = flags["truncated"][2, 3] = True
    flags["is_first"][1, 3] = flags["is_first"][2, 4] = flags["is_first"][0, 0] = True
    reward = size * torch.randn(shape)
    taken = draws(action)
    for value in (reward, taken):
        value[flags["is_first"]] = 0  # as the collector leaves them
    stored = 0.3 * torch.randn(*shape, 1) - 1.0
    plain = observation.get("observation")
    seen = TensorDict(observation, shape) if plain is None else plain
    return TensorDict(
        {"observation": seen, "previous_action": taken, "reward": reward, "stored": stored, **flags}, shape
    )
