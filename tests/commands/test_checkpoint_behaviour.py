"""Policies of checkpoints that data are collected with: memories per episode, noise on actions, parts of a Dict."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import dreamer_agents
import gymnasium as gym
import minari
import numpy as np
import pytest
import r2d2_agents
import torch
from checkpoint_files import save
from torch import Tensor

from commands.behaviour_parts import Part
from commands.checkpoint_behaviour import checkpoint_behaviour
from commands.collect import collect
from commands.policy_step import random_observations
from datamodules.envs.make import EnvironmentSpec
from datamodules.played.behaviours import Moment
from datamodules.played.minari_episodes import minari_root
from modules.agent.agent import Agent
from modules.algorithms.a2c import A2C
from modules.batch import Spaces
from modules.networks.encoders import Encoder

PENDULUM = EnvironmentSpec("Pendulum-v1")
SPACES = PENDULUM.spaces()
TURN = gym.spaces.Discrete(3)


def shaken(agent: Agent) -> Agent:
    """The agent with weights by which what it does depends on all that it knows."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in agent.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * (1.0 if p.ndim > 1 else 0.1))
    return agent.eval()


def r2d2(observation: gym.Space, **network: Any) -> Agent:
    return shaken(r2d2_agents.make_agent(network, TURN, observation))


def dreamer(observation: gym.Space, action: gym.Space) -> Agent:
    return shaken(dreamer_agents.make_agent(observation, action))


def alone(agent: Agent, moments: list[Moment]) -> list[np.ndarray]:
    """Actions of every row by itself: a state of its own, made anew where an episode begins, told what happened."""
    states: dict[int, Any] = {}
    found = []
    for moment in moments:
        row_actions = []
        for row, first in enumerate(moment.first):
            if first:
                states[row] = agent.initial_state(1)
            else:
                assert moment.action is not None
                told = agent.rewarded(states[row], torch.from_numpy(moment.reward[row : row + 1]))
                states[row] = agent.acted(told, torch.from_numpy(moment.action[row : row + 1]))
            seen = torch.from_numpy(moment.observation[row : row + 1])
            action, states[row] = agent.act(seen, states[row], explore=False)
            row_actions.append(action.numpy()[0])
        found.append(np.stack(row_actions))
    return found


def made_up_moments(observation: gym.Space, action: gym.Space, steps: int, rows: int) -> list[Moment]:
    """Steps of episodes that end at different times, with any actions in between."""
    rng = np.random.default_rng(0)
    begins = np.zeros((steps, rows), bool)
    begins[0] = True
    begins[4::5, 0] = begins[2::7, 1:2] = True
    taken = random_observations(action, steps * rows, rng).reshape(steps, rows, *action.shape)  # type: ignore[misc]
    reward = np.where(begins, 0.0, rng.normal(size=(steps, rows))).astype(np.float32)
    seen = [random_observations(observation, rows, rng) for _ in range(steps)]
    return [Moment(seen[t], begins[t], reward[t], taken[t] if t else None) for t in range(steps)]


def test_a_memory_lasts_an_episode_and_knows_the_actions_that_were_taken(tmp_path: Path) -> None:
    observation = r2d2_agents.VECTOR
    agent = r2d2(observation)
    save(agent, tmp_path / "r.ckpt")
    moments = made_up_moments(observation, TURN, steps=30, rows=3)
    expected = alone(agent, moments)
    act = checkpoint_behaviour(str(tmp_path / "r.ckpt"), None, PENDULUM, observation, TURN)
    np.testing.assert_array_equal([act(moment) for moment in moments], expected)
    # Each of the three matters: without it the actions are others.
    for lost in ("first", "reward", "action"):
        changed = [
            m._replace(**{lost: m.first & False if lost == "first" else 0 * getattr(m, lost)}) for m in moments[1:]
        ]
        act = checkpoint_behaviour(str(tmp_path / "r.ckpt"), None, PENDULUM, observation, TURN)
        assert not np.array_equal([act(moment) for moment in [moments[0], *changed]], expected), lost


def test_a_world_model_is_told_the_actions_that_were_taken(tmp_path: Path) -> None:
    agent = dreamer(SPACES.observation, SPACES.action)
    save(agent, tmp_path / "d.ckpt")
    moments = made_up_moments(SPACES.observation, SPACES.action, steps=3, rows=1)
    moments = [moments[0], *(m._replace(first=np.zeros(1, bool)) for m in moments[1:])]
    act = checkpoint_behaviour(str(tmp_path / "d.ckpt"), None, PENDULUM, SPACES.observation, SPACES.action)
    torch.manual_seed(5)
    found = [act(moment) for moment in moments]
    torch.manual_seed(5)
    np.testing.assert_allclose(found, alone(agent, moments), rtol=1e-5)
    act = checkpoint_behaviour(str(tmp_path / "d.ckpt"), None, PENDULUM, SPACES.observation, SPACES.action)
    torch.manual_seed(5)
    assert not np.allclose([act(m._replace(action=None)) for m in moments], found, rtol=1e-3)


def test_an_agent_without_a_memory_acts_on_what_it_sees(tmp_path: Path) -> None:
    torch.manual_seed(0)
    agent = A2C(Spaces(SPACES.observation, SPACES.action), units=8, trunk=r2d2_agents.trunk).eval()
    save(agent, tmp_path / "a.ckpt")
    act = checkpoint_behaviour(str(tmp_path / "a.ckpt"), None, PENDULUM, SPACES.observation, SPACES.action)
    moments = made_up_moments(SPACES.observation, SPACES.action, steps=2, rows=6)
    for moment in moments:
        expected = agent.act(torch.from_numpy(moment.observation), explore=False)[0].numpy()
        np.testing.assert_allclose(act(moment), expected, atol=1e-6)


def test_a_diverged_policy_is_refused(tmp_path: Path) -> None:
    agent = A2C(Spaces(SPACES.observation, SPACES.action), units=8, trunk=r2d2_agents.trunk).eval()
    with torch.no_grad():
        next(agent.actor.parameters()).fill_(torch.nan)
    save(agent, tmp_path / "a.ckpt")
    act = checkpoint_behaviour(str(tmp_path / "a.ckpt"), None, PENDULUM, SPACES.observation, SPACES.action)
    with pytest.raises(ValueError, match="an action of its policy is not finite: its training diverged"):
        act(made_up_moments(SPACES.observation, SPACES.action, steps=1, rows=2)[0])


@pytest.mark.parametrize("kind", ["r2d2", "dreamer"])
def test_collect_plays_agents_with_a_memory_and_repeats_itself(kind: str, tmp_path: Path, capsys: Any) -> None:
    maze = {"environment": "reverie/TMaze-v0", "environment_arguments": {"corridor": 3}}
    observation = EnvironmentSpec("reverie/TMaze-v0", {"corridor": 3}).spaces()
    agent = shaken(
        r2d2_agents.make_agent({}, observation.action, observation.observation)
        if kind == "r2d2"
        else dreamer_agents.make_agent(observation.observation, observation.action)
    )
    save(agent, tmp_path / "a.ckpt")
    part = Part("checkpoint", checkpoint=str(tmp_path / "a.ckpt"), epsilon=0.3)
    contents = []
    for name in ("one-v0", "two-v0"):
        collect(dataset=f"maze/{name}", behaviour=[part], transitions=60, root=str(tmp_path), **maze)
        with minari_root(tmp_path):
            contents.append(list(minari.load_dataset(f"maze/{name}")))
    for left, right in zip(*contents, strict=True):
        np.testing.assert_array_equal(left.observations, right.observations)
        np.testing.assert_array_equal(left.actions, right.actions)
    # The memoryful policy of one episode alone, told the recorded actions, makes most of them.
    if kind == "r2d2":
        same: list[bool] = []
        for episode in contents[0]:
            rows = [
                Moment(x[None], np.array([t == 0]), np.array([r], np.float32), None if t == 0 else a[None])
                for t, (x, r, a) in enumerate(
                    zip(episode.observations, [0.0, *episode.rewards], [0, *episode.actions], strict=True)
                )
            ][:-1]
            same += [own[0] == a for own, a in zip(alone(agent, rows), episode.actions, strict=True)]
        assert 0.6 < np.mean(same) < 1.0  # 0.3 of the actions were replaced, by the same one now and then


def test_an_agent_that_knows_some_parts_looks_at_those(tmp_path: Path, capsys: Any) -> None:
    spec = EnvironmentSpec("reverie/TwoCatch-v0")
    offered = spec.spaces()
    assert isinstance(offered.observation, gym.spaces.Dict)
    known = gym.spaces.Dict({"image": offered.observation["image"]})
    agent = shaken(r2d2_agents.make_agent({"encoder": partial(Encoder, image_network="mlp")}, offered.action, known))
    save(agent, tmp_path / "a.ckpt")
    act = checkpoint_behaviour(str(tmp_path / "a.ckpt"), None, spec, offered.observation, offered.action)
    seen = random_observations(offered.observation, 4, np.random.default_rng(0))
    moment = Moment(seen, np.ones(4, bool), np.zeros(4, np.float32), None)
    image: dict[str, Tensor] = {"image": torch.from_numpy(seen["image"])}
    np.testing.assert_array_equal(act(moment), agent.act(image, explore=False)[0].numpy())
    collect("reverie/TwoCatch-v0", "catch/two-v0", "checkpoint", 30, str(tmp_path), checkpoint=str(tmp_path / "a.ckpt"))
    with minari_root(tmp_path):
        episode = minari.load_dataset("catch/two-v0")[0]
    assert set(episode.observations) == set(offered.observation)
