"""ARMOR learns a one-step problem from its rewards, and improves on its reference policy there."""

from __future__ import annotations

import gymnasium as gym
import pytest
import torch

from modules.agent.learned_model import DynamicsUpdates, RolloutPlan
from modules.agent.warm_start import WarmStart
from modules.algorithms.armor import ARMOR
from modules.batch import Spaces, Transition


@pytest.mark.long
def test_one_step_problem_is_solved_and_the_cloned_reference_left_behind() -> None:
    """The reward is -(a - s / 2)^2, then all is over; the data act at random, so that what is cloned ignores s."""
    g = torch.Generator().manual_seed(0)
    observation, action = (2 * torch.rand(4096, 1, generator=g) - 1 for _ in range(2))
    reward = -(action - 0.5 * observation).square().squeeze(1)
    done = torch.ones(4096, dtype=torch.bool)
    data = Transition(observation, action, reward, observation, done, ~done)
    spaces = Spaces(gym.spaces.Box(-1, 1, (1,)), gym.spaces.Box(-1, 1, (1,)))
    agent = ARMOR(
        spaces, beta=64.0, hidden=[32, 32], initializer="xavier_normal", critic_lr=3e-3, actor_lr=1e-3,
        warm_start=WarmStart(100), dynamics=DynamicsUpdates((32,), lr=3e-3), rollouts=RolloutPlan(1, 10, 2000),
    )  # fmt: skip
    errors = []
    states = torch.linspace(-1, 1, 101)[:, None]
    for update in range(400):
        rows = torch.randint(4096, (64,), generator=g)
        agent.update(Transition(*(x[rows] for x in data[:6])))  # type: ignore[index]
        agent.advance()
        if update in (99, 399):
            acted, _ = agent.act(states, explore=False)
            errors.append((acted - 0.5 * states).abs().mean().item())
    cloned, learned = errors
    assert cloned > 0.2
    assert learned < 0.1
    assert float(agent.imagined.terminated.float().mean()) > 0.95  # the model knows that all is over
