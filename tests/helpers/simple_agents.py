"""Small SimPLe agents, real windows of Catch, and a video model whose rules are written down."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from a2c_agents import layer
from tensordict import TensorDict
from torch import Tensor

from datamodules.envs.toys import Catch
from modules.algorithms.simple import SimPLe
from modules.batch import Spaces
from modules.networks.encoders import Encoder
from modules.networks.video_model import Clip, Foreseen, VideoModel, pushed

BOARD = Catch(rows=5, columns=3)


class Counting(VideoModel):
    """Each frame is the last one plus 1 plus the number of the action; a frame above 4 ends the game.

    The reward is 1 where the action is 2. Its loss is the square of its one weight.
    """

    def __init__(self, frame: gym.Space, d_action: int, context: int = 1) -> None:
        super().__init__(frame, d_action, context)
        self.d_noise = 2
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.seen: list[tuple[Clip, float]] = []

    def losses(self, clip: Clip, own: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        self.seen.append((clip, own.item()))
        return {"frame": self.weight.square()}, {"whole_frames": torch.ones(())}

    def begin(self, frames: Tensor) -> Tensor:
        assert len(frames) == self.context
        return frames

    def step(self, state: Tensor, action: Tensor, noise: Tensor) -> Foreseen:
        assert noise.shape == (len(action), 2)
        number = action.argmax(-1)
        frame = state[-1] + (1 + number).view(-1, 1, 1, 1).to(torch.uint8)
        return Foreseen(pushed(state, frame), frame, (number == 2).float(), frame[:, 0, 0, 0] > 4)


def make(observation: gym.Space | None = None, **settings: Any) -> SimPLe:
    torch.manual_seed(0)
    small: dict[str, Any] = {
        "video": Counting, "encoder": Encoder, "trunk": layer, "units": 8, "model_updates": 2, "policy_updates": 3,
        "own": "linear(0, 1, 8)", "games": 12, "horizon": 4, "passes": 2, "minibatches": 3, "lr": 1e-2,
    }  # fmt: skip
    return SimPLe(Spaces(observation or BOARD.observation_space, BOARD.action_space), **{**small, **settings})


def windows(rows: int = 6, length: int = 7, seed: int = 0) -> TensorDict:
    """`[B, T]` windows of Catch under random actions; rewards are doubled."""
    rng, streams = np.random.default_rng(seed), []
    for b in range(rows):
        env = Catch(rows=5, columns=3)
        frame, _ = env.reset(seed=seed * 100 + b)
        told = [(frame, 0, 0.0, True, False)]
        while len(told) < length + b:
            action = int(rng.integers(3))
            frame, reward, ended, *_ = env.step(action)
            told.append((frame, action, 2.0 * reward, False, ended))
            if ended:
                told.append((env.reset()[0], 0, 0.0, True, False))
        streams.append(told[b : b + length])
    columns = [np.array([[row[i] for row in stream] for stream in streams]) for i in range(5)]
    frame, action, reward, first, ended = (torch.from_numpy(column) for column in columns)
    fields = {
        "observation": frame, "previous_action": action, "reward": reward.float(), "is_first": first,
        "terminated": ended, "truncated": torch.zeros_like(ended),
    }  # fmt: skip
    return TensorDict(fields, [rows, length])
