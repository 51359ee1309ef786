"""The continuous policy of the third version against torch's distributions."""

from __future__ import annotations

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal

from modules.networks.actors import DiscreteActor
from modules.networks.blocks import DenseStack
from modules.networks.bounded_normal import BoundedNormalActor

PUSH = gym.spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32))
trunk = partial(DenseStack, layers=1)


def test_statistics_samples_densities_and_entropies() -> None:
    torch.manual_seed(0)
    actor = BoundedNormalActor(PUSH, 3, trunk, 4, min_std=0.2, max_std=0.7)
    features = 3.0 * torch.randn(6, 5, 3)
    location, s = actor.output(actor.trunk(features)).chunk(2, -1)
    expected = Independent(Normal(torch.tanh(location), 0.5 * torch.sigmoid(s + 2.0) + 0.2), 1)
    stats = actor(features)
    noise = actor.noise(6, 5)
    action = actor.sample(stats, noise)
    torch.testing.assert_close(action, expected.mean + expected.stddev * noise)
    torch.testing.assert_close(actor.log_prob(stats, action), expected.log_prob(action))
    torch.testing.assert_close(actor.entropy(stats), expected.entropy())
    assert torch.equal(actor.mode(stats), torch.tanh(location))
    decoded = actor.decode(torch.tensor([[3.0, -3.0]]))  # beyond the box
    assert decoded.tolist() == [[2.0, 0.0]]


def test_a_small_output_layer_starts_in_the_middle() -> None:
    stats = BoundedNormalActor(PUSH, 3, trunk, 4, output_scale=0.0)(torch.randn(5, 3))
    mean, std = stats.chunk(2, -1)
    assert not mean.any()
    torch.testing.assert_close(std, torch.full_like(std, 0.1 + 0.9 * torch.sigmoid(torch.tensor(2.0)).item()))
    chances = DiscreteActor(gym.spaces.Discrete(4), 3, trunk, 4, output_scale=0.0)(torch.randn(5, 3)).exp()
    torch.testing.assert_close(chances, torch.full_like(chances, 0.25))


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="the range from min_std to max_std"):
        BoundedNormalActor(PUSH, 3, trunk, 4, min_std=1.0, max_std=0.5)
    with pytest.raises(ValueError, match="output_scale must lie in"):
        BoundedNormalActor(PUSH, 3, trunk, 4, output_scale=-1.0)
