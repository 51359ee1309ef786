"""The value of a state is the lesser of a member's critics at its most likely action, for every agent with a pair."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from modules.agent.state_values import state_value
from modules.algorithms.atac import ATAC
from modules.algorithms.behavior_cloning import BehaviorCloning
from modules.algorithms.cql import CQL
from modules.algorithms.iql import IQL
from modules.algorithms.td3_bc import TD3BC
from modules.batch import Spaces

SPACES = Spaces(
    gym.spaces.Box(-np.inf, np.inf, (3,)), gym.spaces.Box(-2.0, 4.0, (2,)), np.array([1.0, 0.0, -1.0]), np.full(3, 2.0)
)
NUMBERED = Spaces(SPACES.observation, gym.spaces.Discrete(3, start=2), SPACES.observation_mean, SPACES.observation_std)


@pytest.mark.parametrize("kind", [ATAC, TD3BC, IQL, CQL])
def test_it_is_the_lesser_of_two_critics(kind: type) -> None:
    agent = kind(SPACES, hidden=[8], seeds=2)
    observation = torch.randn(5, 3)
    action = agent.policy(1)(observation)
    unit = (action - torch.tensor([-2.0, -2.0])) / 3.0 - 1.0
    rows = torch.cat([(observation - agent.normalize.mean) / agent.normalize.std, unit], -1)
    both = agent.critic(rows.expand(4, -1, -1)).squeeze(-1)  # critic c of member m is row 2 c + m
    value = state_value(agent, 1)
    assert value is not None
    torch.testing.assert_close(value(observation), torch.minimum(both[1], both[3]))


@pytest.mark.parametrize("kind", [ATAC, IQL])
def test_numbered_actions_are_looked_up(kind: type) -> None:
    agent = kind(NUMBERED, hidden=[8], seeds=2)
    observation = torch.randn(5, 3)
    action = agent.policy(0)(observation) - 2
    rows = (observation - agent.normalize.mean) / agent.normalize.std
    both = agent.critic(rows.expand(4, -1, -1))
    value = state_value(agent, 0)
    assert value is not None
    expected = [min(both[0, i, a], both[2, i, a]) for i, a in enumerate(action.tolist())]
    torch.testing.assert_close(value(observation), torch.stack(expected))


def test_an_agent_without_critics_has_none() -> None:
    assert state_value(BehaviorCloning(SPACES, hidden=[8]), 0) is None
