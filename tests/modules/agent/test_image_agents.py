"""Offline agents that learn from images: members on their own, equal to those alone, resumed, and a clone of Catch."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from tensordict import TensorDict

from commands.collect import collect
from commands.policy_step import PolicyStep
from datamodules.envs.toys import Catch
from datamodules.offline import OfflineDataModule
from modules.agent.agent import Agent
from modules.agent.warm_start import WarmStart
from modules.algorithms.atac import ATAC
from modules.algorithms.behavior_cloning import BehaviorCloning
from modules.algorithms.cql import CQL
from modules.algorithms.iql import IQL
from modules.algorithms.sac import SAC
from modules.algorithms.td3_bc import TD3BC
from modules.batch import Spaces
from modules.networks.encoders import Encoder
from modules.networks.stacked_encoders import make_encoder
from modules.trust.class_path import describe

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
        (TD3BC, BOX), (CQL, BOX), (SAC, BOX), (SAC, CHOICES),
    ],
)  # fmt: skip
def test_agents_learn_from_images_and_members_are_alone(kind: type[Agent], action: gym.Space) -> None:
    both, alone = make(kind, action), make(kind, action, seeds=1, seed=1)
    before = {name: value.clone() for name, value in both.named_parameters()}
    for index in range(3):
        rows = batch(action, ROWS, index)
        for agent in (both, alone):
            agent.update(seeds_of(agent, rows))
            agent.advance()
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


@pytest.mark.parametrize("kind", [BehaviorCloning, IQL, ATAC, TD3BC, CQL, SAC])
def test_the_encoder_is_an_argument(kind: type[Agent]) -> None:
    usual, named = make(kind, BOX), make(kind, BOX, encoder=make_encoder)
    other = make(kind, BOX, encoder=functools.partial(Encoder, image_middle=0.5))
    rows = batch(BOX, ROWS)
    for agent in (usual, named, other):
        agent.update(seeds_of(agent, rows))
    pairs = zip(usual.parameters(), named.parameters(), other.parameters(), strict=True)
    same = [(torch.equal(a, b), torch.equal(a, c)) for a, b, c in pairs]
    assert all(equal for equal, _ in same)
    assert not all(equal for _, equal in same)
    # It is named, with its arguments, in checkpoints.
    assert describe(other.hparams["encoder"], "encoder") == {
        "class_path": "modules.networks.encoders.Encoder", "init_args": {"image_middle": 0.5},
    }  # fmt: skip


@pytest.mark.parametrize("kind", [BehaviorCloning, IQL, ATAC, TD3BC, CQL, SAC])
def test_an_encoder_that_does_not_fit_is_refused(kind: type[Agent]) -> None:
    with pytest.raises(ValueError, match=r"encoder is for images .* observations are Box\(.*: leave it out"):
        kind(Spaces(gym.spaces.Box(-1.0, 1.0, (3,)), BOX), hidden=[8], encoder=Encoder)
    with pytest.raises(ValueError, match=r"is 6x4 .*, convolutions take 64x64"):
        make(kind, BOX, encoder=functools.partial(Encoder, image_network="conv"))


@pytest.mark.parametrize("action", [BOX, CHOICES])
def test_a_reference_policy_sees_images_as_the_environment_gives_them(action: gym.Space) -> None:
    agent, rows = make(ATAC, action), batch(action, ROWS)
    reference = make(BehaviorCloning, action, seeds=1).policy()
    asked: list[torch.Tensor] = []
    agent.reference = [lambda raw: asked.append(raw) or reference(raw)]  # type: ignore[attr-defined]
    agent.advance()  # to the game
    metrics = agent.update(seeds_of(agent, rows)).metrics
    assert torch.equal(asked[0], torch.cat([rows["observation"]] * 2))
    assert metrics["pessimism"].isfinite().all()


@pytest.mark.long
@pytest.mark.compile
def test_a_compiled_update_is_the_same(backend: str) -> None:
    plain, compiled = make(IQL, CHOICES), make(IQL, CHOICES, compile=True)
    rows = batch(CHOICES, ROWS)
    for agent in (plain, compiled):
        agent.update(seeds_of(agent, rows))
    for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


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


@pytest.mark.parametrize(
    ("transitions", "updates", "bound"), [(400, 100, 0.5), pytest.param(10_000, 2000, 0.95, marks=pytest.mark.slow)]
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_clone_of_recorded_catch_catches(transitions: int, updates: int, bound: float, tmp_path: Path) -> None:
    collect("reverie/Catch-v0", "catch/played-v0", "controller", transitions, root=str(tmp_path), reference_episodes=2)
    data = OfflineDataModule(
        str(tmp_path / "catch/played-v0"), batch_size=64, validation_fraction=0.0, cache_dir=str(tmp_path / "cache")
    )
    assert data.dataset.steps["observation"].dtype == torch.uint8
    torch.manual_seed(0)
    agent = BehaviorCloning(data.spaces, hidden=[64], patience=None, lr=3e-3)
    assert catches(agent, 20) < bound
    batches = iter(data.train_dataloader())
    for _ in range(updates):
        rows = next(batches)
        assert rows["observation"].dtype == torch.uint8
        agent.update(rows)
    assert catches(agent, 20) >= bound
