"""Copies of running environments do what the environments then do, and leave them alone."""

from __future__ import annotations

import threading
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from datamodules.envs.make import make_env
from datamodules.envs.simulator import Simulator


@pytest.mark.parametrize("id", ["CartPole-v1", "Pendulum-v1", "Hopper-v5"])
def test_copies_do_what_the_environments_then_do(id: str) -> None:
    live = [make_env(id) for _ in range(2)]
    observation = np.stack([env.reset(seed=seed)[0] for seed, env in enumerate(live)]).astype(np.float32)
    for env in live:
        env.action_space.seed(1)
    model = Simulator(lambda: make_env(id), lambda: live)
    for _ in range(2):  # the copies are used again, from where the environments then are
        state = model.begin(torch.from_numpy(observation), 3)
        assert np.array_equal(model.view(state)[::3].numpy(), observation)
        for _ in range(3):
            actions = np.stack([env.action_space.sample() for env in live])
            state, reward, ended = model.step(state, torch.from_numpy(actions).repeat_interleave(3, 0))
            steps = [env.step(action) for env, action in zip(live, actions, strict=True)]
            observation = np.stack([step[0] for step in steps]).astype(np.float32)
            assert np.array_equal(model.view(state).numpy(), observation.repeat(3, 0))
            assert reward[::3].tolist() == pytest.approx([float(step[1]) for step in steps], rel=1e-6)
            assert ended[::3].tolist() == [float(step[2]) for step in steps]
    model.close()


def test_after_a_terminal_state_nothing_moves() -> None:
    env = make_env("CartPole-v1")
    observation, _ = env.reset(seed=0)
    model = Simulator(lambda: make_env("CartPole-v1"), lambda: [env])
    state = model.begin(torch.from_numpy(observation)[None], 2)
    rewards, ends = torch.zeros(2), torch.zeros(2)
    for _ in range(60):
        last = model.view(state).clone()
        state, reward, ended = model.step(state, torch.ones(2, dtype=torch.int64))
        rewards, ends = rewards + reward, ends + ended
    assert ends.tolist() == [1.0, 1.0]
    assert 5 < rewards[0] < 20
    assert reward.tolist() == ended.tolist() == [0.0, 0.0]
    assert torch.equal(model.view(state), last)


class Locked(gym.Env):
    """Holds what cannot be copied."""

    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.lock = threading.Lock()
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(1, np.float32), 0.0, False, False, {}


def test_an_environment_that_cannot_be_copied_is_refused() -> None:
    env = Locked()
    env.reset()
    with pytest.raises(ValueError, match=r"cannot be copied, and so is no simulator: Locked\.lock"):
        Simulator(Locked, lambda: [env]).begin(torch.zeros(1, 1), 2)
    with pytest.raises(ValueError, match=r"cannot be copied, and so is no simulator: Locked\.lock"):
        Simulator(Locked, lambda: []).check()  # before anything is played
    Simulator(lambda: make_env("CartPole-v1"), lambda: []).check()
