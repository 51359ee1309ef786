"""The policy on a grid; what it shares with other policies is tested with theirs."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from modules.networks.blocks import DenseStack
from modules.networks.grid_actor import GridActor

SPACE = Box(np.float32([-2.0, 0.0]), np.float32([2.0, 10.0]))


def test_numbers_of_a_known_grid() -> None:
    actor = GridActor(SPACE, 3, functools.partial(DenseStack, layers=1), 4, values=3)
    chances = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.0, 0.9]])
    stats = chances.clamp_min(1e-30).log().flatten().expand(20000, 6)
    drawn = actor.sample(stats, actor.noise(20000, generator=torch.Generator().manual_seed(0)))
    for dimension, expected in enumerate(chances):
        shares = torch.stack([(drawn[:, dimension] == value).float().mean() for value in (-1.0, 0.0, 1.0)])
        torch.testing.assert_close(shares, expected, atol=0.015, rtol=0.0)
    assert actor.mode(stats[0]).tolist() == [-1.0, 1.0]
    assert actor.decode(actor.mode(stats[0])).tolist() == [-2.0, 10.0]
    off_the_grid = torch.tensor([[0.4, 0.6], [0.6, -5.0]])
    expected = torch.tensor([0.25 * 0.9, 0.25 * 0.1]).log()
    torch.testing.assert_close(actor.log_prob(stats[:2], off_the_grid), expected)
    entropy = -sum(p * np.log(p) for p in (0.5, 0.25, 0.25, 0.1, 0.9))
    torch.testing.assert_close(actor.entropy(stats[0]), torch.tensor(entropy, dtype=torch.float32))


def test_one_value_is_no_grid() -> None:
    with pytest.raises(ValueError, match="values must be at least 2, got 1"):
        GridActor(SPACE, 3, functools.partial(DenseStack, layers=1), 4, values=1)
