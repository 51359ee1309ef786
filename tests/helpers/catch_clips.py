"""Windows of random play of Catch, as video models learn from them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from datamodules.envs.toys import Catch
from modules.networks.video_model import Clip


def random_play(rows: int, seed: int) -> Clip:
    """One long record `[rows, ...]` of episodes behind each other."""
    env, draws = Catch(), np.random.default_rng(seed)
    played = [(env.reset(seed=seed)[0], 0, 0.0, False, True)]
    while len(played) < rows:
        if played[-1][3]:
            played.append((env.reset()[0], 0, 0.0, False, True))
            continue
        action = int(draws.integers(3))
        frame, reward, terminated, _, _ = env.step(action)
        played.append((frame, action, reward, terminated, False))
    frame, action, reward, terminated, is_first = zip(*played, strict=True)
    return Clip(
        torch.as_tensor(np.stack(frame)),
        F.one_hot(torch.tensor(action), 3).float(),
        torch.tensor(reward, dtype=torch.float32),
        torch.tensor(terminated),
        torch.tensor(is_first),
    )


def windows(record: Clip, steps: int, rows: int, generator: torch.Generator) -> Clip:
    """Windows `[steps, rows]` from anywhere in a record."""
    start = torch.randint(len(record.reward) - steps + 1, (rows,), generator=generator)
    index = start + torch.arange(steps).unsqueeze(1)
    return Clip(*(part[index] for part in record))
