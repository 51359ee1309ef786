"""Small real checkpoints of ATAC, written by Lightning, for tests of commands that read them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from pytorch_lightning import Trainer

from modules.agent.agent import Agent
from modules.algorithms.atac import ATAC
from modules.batch import Spaces

DATASET = {"name": "made-up", "content_hash": "0" * 64, "environment": "Pendulum-v1", "reference_min": -1200.0,
           "reference_max": -150.0}  # fmt: skip


def save(agent: Agent, path: Path) -> None:
    """A checkpoint of an agent as it is, without data or environment."""
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(agent)
    trainer.save_checkpoint(path)


def write_checkpoint(path: Path, dataset: dict[str, Any] | None = DATASET, **arguments: Any) -> ATAC:
    """An untrained agent for Pendulum-v1 with a normaliser that is not the identity, saved at `path`."""
    torch.manual_seed(0)
    spaces = Spaces(
        gym.spaces.Box(np.array([-1, -1, -8], np.float32), np.array([1, 1, 8], np.float32)),
        gym.spaces.Box(-2.0, 2.0, (1,), np.float32),
        np.array([0.3, -0.2, 1.0]),
        np.array([0.5, 0.7, 3.0]),
    )
    agent = ATAC(spaces, hidden=[16, 16], **arguments)
    save(agent, path)
    checkpoint = torch.load(path, weights_only=True)
    checkpoint.pop("dataset", None)
    torch.save(checkpoint if dataset is None else {**checkpoint, "dataset": dataset}, path)
    return agent


def setting(*keys: str, to: Any) -> Callable[[dict[str, Any]], None]:
    """A change of one entry of a checkpoint."""

    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = to

    return change


def without(*keys: str) -> Callable[[dict[str, Any]], None]:
    """Lose one entry of a checkpoint."""

    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return change
