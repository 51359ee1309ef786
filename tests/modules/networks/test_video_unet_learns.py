"""The U-net learns Catch from three thousand random steps: games of nine steps that it plays on its own stay whole."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.envs.toys import Catch
from modules.networks.video_unet import VideoUNet

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))
from bench_windy import descend, recorded


def played(model: VideoUNet, games: int) -> float:
    """Share of frames that are those of the real game, in games of nine steps that the model plays on its own."""
    envs, rng = [Catch() for _ in range(games)], np.random.default_rng(1)
    frame = torch.from_numpy(np.stack([env.reset(seed=seed)[0] for seed, env in enumerate(envs)]))
    state: Tensor = model.begin(frame.unsqueeze(0))
    whole = []
    for _ in range(9):
        action = rng.integers(3, size=games)
        found = model.step(state, torch.eye(3)[torch.from_numpy(action)], torch.rand(games, model.d_noise))
        state = found.state
        truth = torch.from_numpy(np.stack([env.step(int(a))[0] for env, a in zip(envs, action, strict=True)]))
        whole.append((found.frame == truth).flatten(1).all(1).float().mean().item())
    return float(np.mean(whole))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nineteen_of_twenty_frames_of_its_own_games_are_those_of_the_real_ones() -> None:
    torch.manual_seed(0)
    rows = recorded(3000, seed=0, wind=0.0)
    model = VideoUNet(
        Catch().observation_space, 3, context=1, levels=2, hidden=16, downs=2, doublings=1, dropout=0.0, bits=0
    )
    descend(model, rows, 500, lambda update: update / 500)
    assert played(model, 200) >= 0.95
