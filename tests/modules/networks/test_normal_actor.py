"""The policy with deviations of its own: shapes, clipped actions and their probabilities, what is refused."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
import torch

from modules.networks.blocks import DenseStack
from modules.networks.normal_actor import NormalActor

BOX = gym.spaces.Box(np.array([-0.1, 2.0], np.float32), np.array([0.3, 3.0], np.float32))


def make(std: float = 0.5) -> NormalActor:
    torch.manual_seed(0)
    return NormalActor(BOX, 4, DenseStack, 8, std=std)


def test_means_begin_near_the_middle_and_deviations_do_not_depend_on_what_is_seen() -> None:
    actor = make()
    stats = actor(torch.randn(5, 3, 4))
    mean, log_std = stats.chunk(2, -1)
    assert mean.shape == (5, 3, 2)
    assert mean.abs().max() < 0.1
    assert torch.equal(log_std, torch.full((5, 3, 2), math.log(0.5)))
    gradient = torch.autograd.grad(actor.log_prob(stats, torch.zeros(5, 3, 2)).sum(), list(actor.parameters()))
    assert all(g.abs().max() > 0 for g in gradient)


def test_samples_are_clipped_and_count_by_the_tail_where_they_are() -> None:
    actor = make(std=2.0)
    noise = actor.noise(4000)
    stats = actor(torch.zeros(1, 4)).expand(4000, -1)
    action = actor.decode(actor.sample(stats, noise))
    low, high = torch.from_numpy(BOX.low), torch.from_numpy(BOX.high)
    assert ((action >= low) & (action <= high)).all()
    seen = actor.encode(action)
    mean, log_std = stats.chunk(2, -1)
    assert (seen.abs() >= 1.0 - 1e-6).float().mean().item() == pytest.approx(2 * (1 - 0.6915), abs=0.03)
    for row in range(50):
        total = 0.0
        for a, m, s in zip(seen[row].tolist(), mean[row].tolist(), log_std[row].exp().tolist(), strict=True):
            normal = torch.distributions.Normal(m, s)
            below, above = normal.cdf(torch.tensor(-1.0)), 1 - normal.cdf(torch.tensor(1.0))
            total += float(below.log() if a <= -1 + 1e-6 else above.log() if a >= 1 - 1e-6
                           else normal.log_prob(torch.tensor(a)))  # fmt: skip
        assert actor.log_prob(stats, seen)[row].item() == pytest.approx(total, abs=1e-4)
    assert torch.equal(actor.mode(torch.tensor([[3.0, -0.5, 0.0, 0.0]])), torch.tensor([[1.0, -0.5]]))
    assert actor.entropy(stats)[0].item() == pytest.approx(2 * torch.distributions.Normal(0.0, 2.0).entropy().item())


@pytest.mark.parametrize("std", [0.0, -1.0, math.nan])
def test_a_deviation_must_be_positive(std: float) -> None:
    with pytest.raises(ValueError, match="std must lie in"):
        make(std=std)
