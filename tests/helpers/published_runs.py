"""Folders of runs as `fit` leaves them, with a checkpoint and scores, logged to an MLflow store of their own."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from checkpoint_files import save

from callbacks.evaluation.report import Score, write_final
from callbacks.mlflow.logger import MLflowLogger
from commands.run_origin import add_start
from modules.algorithms.r2d2 import R2D2
from modules.batch import Spaces
from modules.networks.blocks import DenseStack
from modules.networks.encoders import Encoder
from modules.networks.recurrent import LSTM, ActionValues

COMMAND = "reverie fit --config atac/pendulum --model.beta 4"
BOTH = gym.spaces.Dict(
    {"image": gym.spaces.Box(0, 255, (5, 4, 1), np.uint8), "speed": gym.spaces.Box(-1.0, 1.0, (3,), np.float32)}
)


def score(kind: str, mean: float, member: str = "", **changed: Any) -> Score:
    """The score of ten episodes of an untrained policy."""
    ends = {"low": mean - 20.0, "high": mean + 30.0, "normalized_low": 40.0, "normalized_high": 60.0}
    told = {"updates": 0, "kind": kind, "label": kind, "member": member, "count": 10, "normalized": 50.0}
    return Score(**{**told, **ends, "mean": mean, **changed})


def finish(run: Path, scores: list[Score]) -> str:
    """Give a folder with checkpoints what else a finished run has; returns the address of its store."""
    uri = f"sqlite:///{run.parent}/mlflow.db"
    logger = MLflowLogger(tracking_uri=uri, run_directory=str(run))
    logger.log_hyperparams({"beta": 4.0})
    logger.finalize("success")
    write_final(scores, 0, run)
    (run / "config.yaml").write_text("seed_everything: 7\n")
    add_start(run, COMMAND)
    return uri


def recurrent(path: Path) -> R2D2:
    """An untrained R2D2 of seven actions that sees an image and numbers, saved at `path`."""
    torch.manual_seed(0)
    sizes = {"trunk": partial(DenseStack, layers=1), "memory": partial(LSTM, width=8)}
    network = partial(ActionValues, units=8, encoder=partial(Encoder, image_network="mlp"), **sizes)
    agent = R2D2(Spaces(BOTH, gym.spaces.Discrete(7)), network).eval()
    save(agent, path)
    return agent


def seen(rows: int, seed: int) -> dict[str, np.ndarray]:
    """Observations of `recurrent`, `[rows, ...]`."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, size=(rows, 5, 4, 1)).astype(np.uint8)
    return {"image": images, "speed": rng.uniform(-1, 1, size=(rows, 3)).astype(np.float32)}
