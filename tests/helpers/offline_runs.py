"""Folders of finished offline runs on Pendulum's spaces, without any training: checkpoints that name their data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from checkpoint_files import save

from datamodules.offline import OfflineDataModule
from modules.agent.agent import Agent
from modules.agent.warm_start import WarmStart
from modules.algorithms.atac import ATAC
from modules.algorithms.behavior_cloning import BehaviorCloning
from modules.batch import Spaces

HIGH = np.array([1, 1, 8], np.float32)
SPACES = Spaces(gym.spaces.Box(-HIGH, HIGH), gym.spaces.Box(-2.0, 2.0, (1,)))


def write_data(path: Path, seed: int = 0, episodes: int = 10, length: int = 8) -> Path:
    """Random episodes whose reward is the larger the nearer the action is to 1."""
    rng, steps = np.random.default_rng(seed), episodes * length
    actions = rng.uniform(-2, 2, (steps, 1)).astype(np.float32)
    np.savez(
        path,
        observations=rng.uniform(-1, 1, (steps, 3)).astype(np.float32),
        actions=actions,
        rewards=-np.square(actions[:, 0] - 1.0),
        terminals=np.zeros(steps, bool),
        timeouts=np.arange(steps) % length == length - 1,
    )
    return path


def add_run(folder: Path, agent: Agent, source: Path, name: str = "last", **entries: Any) -> Path:
    """`folder/checkpoints/<name>.ckpt` of an agent as it is, which names its data; `entries` change the file."""
    path = folder / "checkpoints" / f"{name}.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    save(agent, path)
    arguments: dict[str, Any] = {"source": str(source), "environment": "Pendulum-v1", "cache_dir": str(source.parent)}
    data = OfflineDataModule(**arguments)
    checkpoint = torch.load(path, weights_only=True)
    more = {"dataset": data.info.to_plain(), "environment": {"id": "Pendulum-v1", "arguments": {}, "wrappers": []}}
    more["datamodule_hyper_parameters"] = arguments | {"seed": 0, "reward_scale": 0.5, "reward_shift": 0.0}
    torch.save({**checkpoint, **more, **entries}, path)
    return path


def constant(agent: Any, *actions: float) -> Any:
    """The agent, whose members always do these actions, in [-1, 1]."""
    layer = agent.acting.network.layers[-1]
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
        layer.bias[:, 0, 0] = torch.atanh(torch.tensor(actions))
    return agent


def three_policies() -> Any:
    """ATAC with three members, of which the second does what is rewarded and the third the opposite."""
    torch.manual_seed(0)
    agent = ATAC(SPACES, beta=[1.0, 4.0, 16.0], hidden=[8], discount=0.5, warm_start=WarmStart(0))
    return constant(agent, 0.0, 0.5, -0.9)


def clone() -> Any:
    """A cloned policy that does nothing."""
    torch.manual_seed(0)
    return constant(BehaviorCloning(SPACES, hidden=[8], patience=None), 0.0)
