"""The U-net learns Catch from three thousand random steps: games of nine steps that it plays on its own stay whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.envs.toys import Catch
from modules.networks.video_model import Clip
from modules.networks.video_unet import VideoUNet


def recorded(steps: int) -> Clip:
    """Rows `[n, 1]` of Catch under random actions."""
    env, rng = Catch(), np.random.default_rng(0)
    rows: list[tuple[Any, ...]] = [(env.reset(seed=0)[0], np.zeros(3), 0.0, False, True)]
    for _ in range(steps):
        action = int(rng.integers(3))
        frame, reward, ended, *_ = env.step(action)
        rows.append((frame, np.eye(3)[action], reward, ended, False))
        if ended:
            rows.append((env.reset()[0], np.zeros(3), 0.0, False, True))
    frame, action, reward, ended, first = (torch.from_numpy(np.array(x)).unsqueeze(1) for x in zip(*rows, strict=True))
    return Clip(frame, action.float(), reward.float(), ended, first)


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
    rows = recorded(3000)
    model = VideoUNet(
        Catch().observation_space, 3, context=1, levels=2, hidden=16, downs=2, doublings=1, dropout=0.0, bits=0
    )
    optimizer = torch.optim.Adam(model.parameters(), 4e-3)
    for update in range(500):
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - update / 500)
        index = torch.randint(len(rows.frame) - 5, (32,)) + torch.arange(5).unsqueeze(1)
        terms, _ = model.losses(Clip(*(x[index, 0] for x in rows)), torch.tensor(update / 500))
        optimizer.zero_grad()
        sum(terms.values(), torch.zeros(())).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert played(model, 200) >= 0.95
