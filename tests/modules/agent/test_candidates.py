"""Policies of several agents as one stack: each row is what the agent's own member does."""

from __future__ import annotations

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch

from modules.agent.agent import Agent
from modules.agent.candidates import Candidates
from modules.algorithms.atac import ATAC
from modules.algorithms.behavior_cloning import BehaviorCloning
from modules.algorithms.cql import CQL
from modules.algorithms.iql import IQL
from modules.algorithms.r2d2 import R2D2
from modules.algorithms.td3_bc import TD3BC
from modules.batch import Spaces
from modules.networks.blocks import DenseStack
from modules.networks.encoders import Encoder
from modules.networks.stacked_encoders import ImageFront
from modules.networks.trunks import twin_values

BOX = Spaces(
    gym.spaces.Box(-np.inf, np.inf, (4,)), gym.spaces.Box(-2.0, 2.0, (2,)),
    np.full(4, 0.5, np.float32), np.full(4, 2.0, np.float32),
)  # fmt: skip
DISCRETE = Spaces(gym.spaces.Box(-np.inf, np.inf, (4,)), gym.spaces.Discrete(3, start=5))
SIZES = {"hidden": [8]}


def observations(rows: int = 6) -> torch.Tensor:
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(0))


def boxes() -> list[Agent]:
    return [
        ATAC(BOX, beta=[1.0, 4.0], seeds=2, **SIZES), BehaviorCloning(BOX, **SIZES), TD3BC(BOX, **SIZES),
        IQL(BOX, **SIZES), CQL(BOX, **SIZES),
    ]  # fmt: skip


def test_actions_are_those_that_each_member_plays() -> None:
    agents, seen = boxes(), observations()
    stack = Candidates(agents)
    actions = stack.likeliest(seen)
    assert actions.shape == (len(stack), 6, 2) == (8, 6, 2)
    for member, action in zip(stack.members, actions, strict=True):
        expected = agents[member.agent].policy(member.place)(seen)
        torch.testing.assert_close(stack.units.played(action), expected)
    assert [m.name for m in stack.members[:4]] == list(agents[0].member_names)
    assert [(m.hyperparameter, m.value) for m in stack.members[:5]] == [("beta", 1.0)] * 2 + [("beta", 4.0)] * 2 + [
        ("", 0.0)
    ]


def test_log_probabilities_and_critics_are_the_members_own() -> None:
    agents, seen = boxes(), observations()
    stack = Candidates(agents)
    recorded = torch.rand(6, 2, generator=torch.Generator().manual_seed(1)) - 0.5
    log_prob, critics = stack.log_prob(seen, recorded), stack.critics(seen, stack.likeliest(seen))
    assert log_prob.isnan().all(-1).tolist() == [False] * 5 + [True] + [False] * 2  # TD3+BC has no densities
    assert critics.isnan().all(-1).tolist() == [False] * 4 + [True] + [False] * 3  # cloning has no critics
    atac = agents[0]
    rows = atac.normalize(seen).expand(4, 6, 4)
    given = recorded.expand(4, 6, 2)
    torch.testing.assert_close(log_prob[:4], atac.actor.log_prob(given, *atac.actor(rows)).sum(-1))
    torch.testing.assert_close(critics[:4], twin_values(atac.critic, rows, stack.likeliest(seen)[:4]).mean(0))
    torch.testing.assert_close(stack.normalize(seen), (seen - 0.5) / 2.0)


def test_members_that_diverged_are_left_out() -> None:
    agents, seen = boxes(), observations()
    whole = Candidates(agents)
    agents[0].alive = [True, False, True, True]
    agents[1].alive = [False]
    stack = Candidates(agents)
    left = [0, 2, 3, 5, 6, 7]
    assert [m.name for m in stack.diverged] == ["beta=1/seed=1", ""]
    torch.testing.assert_close(stack.likeliest(seen), whole.likeliest(seen)[left])
    actions, recorded = whole.likeliest(seen), torch.zeros(6, 2)
    torch.testing.assert_close(stack.critics(seen, actions[left]), whole.critics(seen, actions)[left], equal_nan=True)
    torch.testing.assert_close(stack.log_prob(seen, recorded), whole.log_prob(seen, recorded)[left], equal_nan=True)


def test_members_whose_policies_are_not_finite_are_left_out_whatever_the_agent_says() -> None:
    agent = ATAC(BOX, beta=[1.0, 4.0], seeds=2, **SIZES)
    with torch.no_grad():
        agent.acting.network.layers[0].weight[2, 0, 0] = torch.nan
    assert [m.name for m in Candidates([agent]).diverged] == ["beta=4/seed=0"]


def test_pixels_stay_for_encoders_and_actions_are_those_of_images() -> None:
    spaces = Spaces(gym.spaces.Box(0, 255, (6, 5, 1), np.uint8), gym.spaces.Discrete(3))
    encoder = partial(Encoder, image_middle=0.25)
    agents: list[Agent] = [BehaviorCloning(spaces, trunk=DenseStack, encoder=encoder, **SIZES)]
    stack, seen = Candidates(agents), torch.randint(0, 256, (4, 6, 5, 1), dtype=torch.uint8)
    assert torch.equal(stack.normalize(seen), seen.flatten(1).float())
    assert stack.front == ImageFront(spaces.observation, None, encoder)  # the agent's encoder, without its trunk
    torch.testing.assert_close(stack.units.played(stack.likeliest(seen)[0]), agents[0].policy()(seen))


def test_numbered_actions() -> None:
    agents: list[Agent] = [IQL(DISCRETE, seeds=2, **SIZES), BehaviorCloning(DISCRETE, **SIZES)]
    stack, seen = Candidates(agents), observations()
    actions = stack.likeliest(seen)
    assert actions.shape == (3, 6)
    torch.testing.assert_close(stack.units.played(actions[2]), agents[1].policy()(seen))
    critics = stack.critics(seen, actions)
    assert critics.isnan().all(-1).tolist() == [False, False, True]
    values = agents[0].critic(agents[0].normalize(seen).expand(4, 6, 4)).view(2, 2, 6, 3).mean(0)
    torch.testing.assert_close(critics[:2], values.gather(-1, actions[:2, :, None]).squeeze(-1))
    assert stack.log_prob(seen, actions[2]).shape == (3, 6)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"one\.ckpt holds a R2D2; agents that learn from recorded transitions"):
        Candidates([R2D2(DISCRETE)], ["one.ckpt"])
    with pytest.raises(ValueError, match=r"b\.ckpt acts in other spaces than a\.ckpt does; give checkpoints of one"):
        Candidates([IQL(BOX, **SIZES), IQL(DISCRETE, **SIZES)], ["a.ckpt", "b.ckpt"])
    agent = IQL(BOX, **SIZES)
    agent.alive = [False]
    with pytest.raises(ValueError, match=r"no member of IQL is alive; there is nothing to choose from"):
        Candidates([agent])
