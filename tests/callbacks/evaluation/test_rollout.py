"""Episodes by seed: returns whatever runs in parallel, memories, rewards told, and nothing disturbed."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from toy_run import SPACES, Toy, episode_length

from callbacks.evaluation.rollout import evaluate_policy, evaluate_random
from datamodules.envs.make import EnvironmentSpec, vector_of
from modules.agent.random_state import random_state
from modules.batch import Spaces


@pytest.mark.parametrize("parallel", [1, 3, 7, 100])
def test_returns_are_those_of_the_seeded_episodes_whatever_runs_in_parallel(parallel):
    rollouts = evaluate_policy(Toy(SPACES, start=0.5), "Stairs-v0", 7, seed=20, parallel=parallel)
    lengths = [episode_length(20 + e) for e in range(7)]
    assert len(set(lengths)) > 1
    np.testing.assert_array_equal(rollouts.lengths, [lengths])
    np.testing.assert_allclose(rollouts.returns, [[0.5 * n for n in lengths]])


def test_members_play_the_same_episodes_in_one_pass_and_dead_ones_give_nan():
    agent = Toy(SPACES, members=3)
    agent.weight.data = torch.tensor([1.0, float("nan"), -1.0])
    agent.alive = [True, False, True]
    lengths = np.array([episode_length(e) for e in range(5)], dtype=float)
    rollouts = evaluate_policy(agent, "Stairs-v0", 5, seed=0, parallel=2)
    np.testing.assert_allclose(rollouts.returns, [lengths, [np.nan] * 5, -lengths])
    assert rollouts.lengths[1].tolist() == [0] * 5


def test_a_member_that_has_just_diverged_sends_nothing_either():
    agent = Toy(SPACES, members=2)
    agent.weight.data = torch.tensor([float("inf"), 1.0])
    returns = evaluate_policy(agent, "Stairs-v0", 3, seed=0).returns
    assert np.isnan(returns[0]).all()
    assert returns[1].tolist() == [episode_length(e) for e in range(3)]


class Counter(Toy):
    """Plays the number of steps it has seen in this episode: its memory must start anew with each episode."""

    def initial_state(self, batch):
        return torch.zeros(batch)

    def act(self, observation, state=None, *, explore):
        return state[:, None] / 10, state + 1


def test_memory_starts_anew_with_each_episode():
    returns = evaluate_policy(Counter(SPACES), "Stairs-v0", 6, seed=3, parallel=2).returns
    lengths = [episode_length(3 + e) for e in range(6)]
    np.testing.assert_allclose(returns, [[n * (n - 1) / 20 for n in lengths]], rtol=1e-5)


class Told(Toy):
    """Plays a tenth of the reward before, of which only who steps the environment knows."""

    def initial_state(self, batch):
        return torch.full((batch,), 3.0)

    def act(self, observation, state=None, *, explore):
        return state[:, None] / 10, torch.full_like(state, torch.nan)

    def rewarded(self, state, reward):
        assert reward.dtype == torch.float32
        assert state.isnan().all()
        return 1 + reward


def test_an_agent_is_told_what_its_actions_paid():
    returns = evaluate_policy(Told(SPACES), "Stairs-v0", 5, seed=3, parallel=2).returns
    expected = []
    for e in range(5):
        rewards = [0.3]
        for _ in range(episode_length(3 + e) - 1):
            rewards.append((1 + rewards[-1]) / 10)
        expected.append(sum(rewards))
    np.testing.assert_allclose(returns, [expected], rtol=1e-5)


def test_nothing_random_and_no_mode_is_disturbed():
    agent = Toy(SPACES).train()
    before = random_state(torch.device("cpu"))
    evaluate_policy(agent, "Stairs-v0", 3, seed=5)
    after = random_state(torch.device("cpu"))
    assert agent.training
    assert torch.equal(before["torch"], after["torch"])
    assert torch.equal(before["numpy"][1], after["numpy"][1])
    assert before["numpy"][2:] == after["numpy"][2:]
    assert before["python"] == after["python"]


class Lock(gym.Env):
    """A reward of 1 for each dial that is turned as the observation says; lasts as many steps as its seed decides."""

    observation_space = gym.spaces.Dict(
        {"wanted": gym.spaces.Box(0.0, 9.0, (2,), np.float64), "picture": gym.spaces.Box(0, 255, (1, 2, 1), np.uint8)}
    )
    action_space = gym.spaces.MultiDiscrete([3, 4], start=[5, 5])

    def observe(self):
        self.wanted = self.np_random.integers([5, 5], [8, 9])
        return {"wanted": self.wanted.astype(np.float64), "picture": self.wanted.astype(np.uint8).reshape(1, 2, 1)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 2 + seed % 3
        return self.observe(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.left -= 1
        reward = float((action == self.wanted).sum())
        return self.observe(), reward, self.left == 0, False, {}


gym.register("Lock-v0", Lock)
LOCK = Spaces(Lock.observation_space, Lock.action_space)


class Locksmith(Toy):
    """Turns one dial as the one key says and one as the other says, from the second step of an episode on."""

    def initial_state(self, batch):
        return {"steps": torch.zeros(batch, 1, dtype=torch.int64)}

    def act(self, observation, state=None, *, explore):
        assert observation["wanted"].dtype == torch.float32
        assert observation["picture"].dtype == torch.uint8
        read = torch.stack([observation["wanted"][:, 0].long(), observation["picture"][:, 0, 1, 0].long()], 1)
        return torch.where(state["steps"] > 0, read, 5), {"steps": state["steps"] + 1}


def test_observations_by_key_and_factored_actions_with_memory():
    rollouts = evaluate_policy(Locksmith(LOCK), EnvironmentSpec("Lock-v0"), 6, seed=30, parallel=2)
    lengths = np.array([2 + (30 + e) % 3 for e in range(6)])
    guessed = [(Lock().reset(seed=30 + e)[0]["wanted"] == 5).sum() for e in range(6)]
    assert len(set(guessed)) > 1
    np.testing.assert_array_equal(rollouts.lengths, [lengths])
    np.testing.assert_array_equal(rollouts.returns, [2.0 * (lengths - 1) + guessed])


def test_dead_members_send_an_allowed_factored_action():
    agent = Locksmith(LOCK, members=2)
    agent.alive = [True, False]
    returns = evaluate_policy(agent, "Lock-v0", 3, seed=0, parallel=1).returns
    assert np.isnan(returns[1]).all()
    assert returns[0].min() >= 2.0


def test_random_actions_are_uniform_and_repeatable():
    environment = vector_of([EnvironmentSpec("Lock-v0").make] * 5, seed=0, autoreset=AutoresetMode.DISABLED)
    before = random_state(torch.device("cpu"))
    rollouts = evaluate_random(environment, 300, seed=0)
    assert torch.equal(before["numpy"][1], random_state(torch.device("cpu"))["numpy"][1])
    assert rollouts.returns.shape == (1, 300)
    rate = rollouts.returns.sum() / rollouts.lengths.sum()  # of 900 steps, with a standard deviation of 0.022
    assert rate == pytest.approx(1 / 3 + 1 / 4, abs=0.09)
    np.testing.assert_array_equal(evaluate_random(environment, 300, seed=0).returns, rollouts.returns)
    environment.close()


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="episodes must be at least 1"):
        evaluate_policy(Toy(SPACES), "Stairs-v0", 0, seed=0)
    with pytest.raises(ValueError, match=r"longer than 2 steps: .* time limit"):
        evaluate_policy(Toy(SPACES), "Stairs-v0", 1, seed=0, max_episode_steps=2)
    vector = vector_of([EnvironmentSpec("Stairs-v0").make] * 2, seed=0, autoreset=AutoresetMode.NEXT_STEP)
    with pytest.raises(ValueError, match=r"AutoresetMode\.DISABLED"):
        evaluate_policy(Toy(SPACES), vector, 1, seed=0)
    vector.close()
