"""Offline agents that learn from images: members on their own, equal to those alone, resumed, and a clone of Catch."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from tensordict import TensorDict

from commands.policy_step import PolicyStep
from datamodules.envs.toys import Catch
from datamodules.played.behaviours import catch_ball
from modules.agent.agent import Agent
from modules.agent.warm_start import WarmStart
from modules.algorithms.atac import ATAC
from modules.algorithms.behavior_cloning import BehaviorCloning
from modules.algorithms.cql import CQL
from modules.algorithms.iql import IQL
from modules.algorithms.td3_bc import TD3BC
from modules.batch import Spaces

IMAGE = gym.spaces.Box(0, 255, (6, 4, 1), np.uint8)
BOX, CHOICES = gym.spaces.Box(-2.0, 2.0, (2,), np.float32), gym.spaces.Discrete(3)
ROWS = 7


def make(kind: type[Agent], action: gym.Space, **changes: Any) -> Agent:
    own: dict[str, Any] = {ATAC: {"warm_start": WarmStart(1)}, BehaviorCloning: {"patience": None}}.get(kind, {})
    return kind(Spaces(IMAGE, action), hidden=[8], **own, **({"seeds": 2} | changes))


def batch(action: gym.Space, rows: int, seed: int = 0) -> TensorDict:
    generator = torch.Generator().manual_seed(seed)
    played = torch.randint(3, (rows,), generator=generator)
    if isinstance(action, gym.spaces.Box):
        played = 4 * torch.rand(rows, 2, generator=generator) - 2
    image = torch.randint(256, (2, rows, *IMAGE.shape), dtype=torch.uint8, generator=generator)
    end = torch.zeros(rows, 1, dtype=torch.bool)
    reward = torch.rand(rows, 1, generator=generator)
    following = TensorDict({"observation": image[1], "reward": reward, "terminated": end, "truncated": end}, [rows])
    return TensorDict({"observation": image[0], "action": played, "next": following}, [rows])


def seeds_of(agent: Agent, rows: TensorDict) -> TensorDict:
    return torch.cat([rows] * agent.population.minibatches)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kind", "action"),
    [
        (BehaviorCloning, BOX), (BehaviorCloning, CHOICES), (IQL, BOX), (IQL, CHOICES), (ATAC, BOX), (ATAC, CHOICES),
        (TD3BC, BOX), (CQL, BOX),
    ],
)  # fmt: skip
def test_agents_learn_from_images_and_members_are_alone(kind: type[Agent], action: gym.Space) -> None:
    both, alone = make(kind, action), make(kind, action, seeds=1, seed=1)
    before = {name: value.clone() for name, value in both.named_parameters()}
    for index in range(3):
        rows = batch(action, ROWS, index)
        for agent in (both, alone):
            agent.update(seeds_of(agent, rows))
    # Every weight that learns has moved, those of the encoders too, and a member is what it is without others.
    encoders = [name for name, _ in both.named_parameters() if "encoder" in name]
    assert len(encoders) >= 2
    still = [n for n, v in both.named_parameters() if v.requires_grad and "weights" in n and torch.equal(v, before[n])]
    assert still == []
    seen = batch(action, 5, 9)["observation"]
    if kind is not ATAC:  # whose noise is drawn for both seeds at once
        mine, own = both.policy(1)(seen), alone.policy(0)(seen)
        torch.testing.assert_close(mine, own, rtol=1e-4, atol=1e-5)
    # What acts, and what is exported, is the same.
    acted = both.act(torch.cat([seen, seen]), explore=False)[0].unflatten(0, (2, 5))
    step = PolicyStep(both, 1)
    torch.testing.assert_close(step.step({"observation": seen})["action"], acted[1].detach(), rtol=1e-4, atol=1e-5)
    losses = both.evaluate_losses(batch(action, 5, 3))
    assert all(value.isfinite().all() for value in losses.values())
    # A copy of the weights goes on as the agent itself does.
    other = make(kind, action)
    other.load_state_dict(both.state_dict())
    assert torch.equal(other.policy(0)(seen), both.policy(0)(seen))


def catches(agent: Agent, episodes: int) -> float:
    """Mean return of the policy's most likely actions."""
    env, total = Catch(), 0.0
    for seed in range(episodes):
        observation, ended = env.reset(seed=seed)[0], False
        while not ended:
            action = agent.act(torch.from_numpy(observation)[None], explore=False)[0]
            observation, reward, ended, _, _ = env.step(int(action))
            total += reward
    return total / episodes


@pytest.mark.parametrize(("updates", "bound"), [(60, 0.5), pytest.param(1000, 0.99, marks=pytest.mark.slow)])
def test_a_clone_of_catch_catches(updates: int, bound: float) -> None:
    env, images, actions = Catch(), [], []
    for seed in range(40):
        observation, ended = env.reset(seed=seed)[0], False
        while not ended:
            action = int(catch_ball(observation[None])[0])
            images.append(observation)
            actions.append(action)
            observation, _, ended, _, _ = env.step(action)
    seen, played = torch.from_numpy(np.stack(images)), torch.tensor(actions)
    torch.manual_seed(0)
    agent = BehaviorCloning(Spaces(env.observation_space, env.action_space), hidden=[64], patience=None, lr=3e-3)
    assert catches(agent, 20) < bound
    rows = batch(CHOICES, 64)
    for _ in range(updates):
        chosen = torch.randint(len(seen), (64,))
        rows["observation"], rows["action"] = seen[chosen], played[chosen]
        rows["next", "observation"] = seen[chosen]
        agent.update(rows)
    assert catches(agent, 20) >= bound
