"""A video model of tokens learns Catch from random play."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from catch_clips import random_play, windows
from torch.optim.lr_scheduler import LambdaLR

from modules.networks.causal_transformer import CausalTransformer
from modules.networks.quantisers import VectorQuantiser
from modules.networks.token_video import TokenVideo
from modules.networks.tokens import ImageTokenizer

UPDATES = 800


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_frames_come_back_and_the_next_ball_is_foreseen() -> None:
    torch.manual_seed(0)
    record, unseen = random_play(2000, 0), random_play(500, 1)
    quantiser = partial(VectorQuantiser, 64, 16, decay=0.9)
    tokenizer: Any = partial(ImageTokenizer, quantiser=quantiser, patch=(10, 1), layers=0, levels=2, image_middle=0.0)
    space = gym.spaces.Box(0, 255, (10, 5, 1), np.uint8)
    model = TokenVideo(space, 3, context=1, tokenizer=tokenizer, transformer=CausalTransformer, window=4)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    falling = LambdaLR(optimiser, lambda update: min(1.0, 2.0 * (1.0 - update / UPDATES)))
    generator = torch.Generator().manual_seed(0)
    for _ in range(UPDATES):
        terms, _ = model.losses(windows(record, 6, 24, generator), torch.tensor(0.0))
        optimiser.zero_grad()
        sum(terms.values()).backward()  # type: ignore[union-attr]
        optimiser.step()
        falling.step()
    # Frames that it has not learned from, and one step from each; draws decide between what it holds for possible.
    returned = model.tokenizer.images(model.tokenizer.tokens(unseen.frame))
    assert (returned == unseen.frame).float().mean() >= 0.99
    after = 1 + torch.nonzero(~unseen.is_first[1:]).squeeze(1)
    noise = torch.rand(len(after), model.d_noise, generator=generator)
    step = model.step(model.begin(unseen.frame[after - 1].unsqueeze(0)), unseen.action[after], noise)
    right = {
        "ball": (step.frame == unseen.frame[after])[:, :-1].flatten(1).all(1),  # all rows but the paddle's
        "reward": step.reward == unseen.reward[after],
        "end": step.terminated == unseen.terminated[after],
    }
    shares = {name: float(found.float().mean()) for name, found in right.items()}
    assert min(shares.values()) >= 0.95, shares
