"""The behaviours that recorded datasets are made by, and the random policy."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from callbacks.evaluation.rollout import evaluate_random, evaluation_environments
from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.restarting import Protection
from datamodules.played.behaviours import CONTROLLERS, Moment, at_random, swing_up, with_noise, with_random
from datamodules.played.collector import Collector
from datamodules.played.minari_episodes import mean_return
from datamodules.played.policies import RandomPolicy
from datamodules.played.setting import make_environments

TORQUE = gym.spaces.Box(-2.0, 2.0, (1,), np.float32)


def test_swing_up_is_near_the_expert_and_noise_degrades_it() -> None:
    rng = np.random.default_rng(0)

    def measure(level: float) -> float:
        return mean_return("Pendulum-v1", with_noise(swing_up, level, TORQUE, rng), count=50, seed=0, environments=50)

    clean, noisy, wild = measure(0.0), measure(1.0), measure(2.0)
    assert clean > -200  # a trained expert gets -150
    assert clean > noisy > wild
    assert wild > -1000  # uniformly random actions get -1200


def moments(observation: np.ndarray) -> Moment:
    """First moments with these observations."""
    return Moment(observation, np.ones(len(observation), bool), np.zeros(len(observation), np.float32), None)


def test_noise_has_the_asked_deviation_and_stays_inside() -> None:
    def zero(moment: Moment) -> np.ndarray:
        return np.zeros((len(moment.observation), 1), np.float32)

    rows = moments(np.zeros((20_000, 3), np.float32))
    small = with_noise(zero, 0.25, TORQUE, np.random.default_rng(0))(rows)
    assert small.shape == (20_000, 1)
    assert small.dtype == np.float32
    assert small.std() == pytest.approx(0.25 * 2.0, rel=0.03)
    large = with_noise(zero, 5.0, TORQUE, np.random.default_rng(0))(rows)
    assert large.min() == -2.0
    assert large.max() == 2.0


def test_random_mixture_replaces_the_asked_share() -> None:
    def one(moment: Moment) -> np.ndarray:
        return np.ones((len(moment.observation), 1), np.float32)

    rows = moments(np.zeros((20_000, 3), np.float32))
    mixed = with_random(one, 0.3, RandomPolicy(TORQUE, 20_000, seed=0))(rows)
    assert (mixed != 1.0).mean() == pytest.approx(0.3, abs=0.02)
    random = RandomPolicy(TORQUE, 20_000, seed=0)()
    assert random.mean() == pytest.approx(0.0, abs=0.05)
    assert random.std() == pytest.approx(4.0 / np.sqrt(12.0), rel=0.03)


def test_random_actions_come_from_a_generator_of_their_own() -> None:
    space = gym.spaces.Discrete(5)
    policy, twin = RandomPolicy(space, 3, seed=4), RandomPolicy(space, 3, seed=4)
    drawn = [policy() for _ in range(3)]
    space.seed(0)
    space.sample()
    kept = twin.state_dict()
    np.testing.assert_array_equal([twin() for _ in range(3)], drawn)
    twin.load_state_dict(kept)
    np.testing.assert_array_equal([twin() for _ in range(3)], drawn)
    alone = RandomPolicy(space, None, seed=4)
    space.seed(4)
    assert [alone() for _ in range(5)] == [space.sample() for _ in range(5)]


@pytest.mark.parametrize(("environment", "best"), [("CartPole-v1", 500.0), ("reverie/Catch-v0", 1.0)])
def test_controllers_of_numbered_actions_are_the_best_there_are(environment: str, best: float) -> None:
    act = CONTROLLERS[environment]
    assert mean_return(environment, act, count=50, seed=0, environments=50) == best


# ------------------------------------------------------------------------------------------------------- legal actions
MASKS = np.array([[0, 1, 0, 1], [1, 1, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0]], np.int8)


@pytest.mark.parametrize("start", [0, 5])
def test_only_legal_actions_are_drawn_each_as_often(start: int) -> None:
    space, rows = gym.spaces.Discrete(4, start=start), {"action_mask": torch.from_numpy(MASKS)}
    policy = RandomPolicy(space, 4, seed=0)
    drawn = np.stack([policy(rows) for _ in range(2000)]) - start
    assert drawn.dtype == np.int64
    for row, mask in enumerate(MASKS):
        legal = np.flatnonzero(mask) if mask.any() else [0]  # a game that is over: whatever is sent is ignored
        counts = np.bincount(drawn[:, row], minlength=4) / 2000
        assert np.flatnonzero(counts).tolist() == list(legal)
        assert counts[legal] == pytest.approx(1 / len(legal), abs=4 * 0.5 / 2000**0.5)
    alone = RandomPolicy(space, None, seed=0)
    assert all(int(alone({"action_mask": MASKS[2]})) == 2 + start for _ in range(5))


def test_what_is_no_mask_of_these_actions_changes_nothing() -> None:
    for space, observation in (
        (gym.spaces.Discrete(3), {"action_mask": MASKS}),  # of four actions
        (gym.spaces.Discrete(4), {"mask": MASKS}),
        (gym.spaces.Discrete(4), MASKS),
        (TORQUE, {"action_mask": MASKS}),
    ):
        assert np.array_equal(RandomPolicy(space, 4, seed=1)(observation), RandomPolicy(space, 4, seed=1)())


def test_behaviours_with_random_actions_stay_legal() -> None:
    observation = {"board": np.zeros((4, 2)), "action_mask": MASKS}
    moment = Moment(observation, np.ones(4, bool), np.zeros(4, np.float32), None)
    random = RandomPolicy(gym.spaces.Discrete(4), 4, seed=0)
    for act in (at_random(random), with_random(lambda _: np.array([1, 0, 2, 0]), 0.9, random)):
        for _ in range(50):
            assert all(MASKS[row, action] for row, action in enumerate(act(moment)[:3]))


def test_the_random_player_never_loses_by_an_illegal_move() -> None:
    for id in ("reverie/TicTacToe-v0", "reverie/ConnectFour-v0"):
        vector = evaluation_environments(
            EnvironmentSpec(id, {"opponent": "random"}), 3, 0, Protection(infos=("illegal_move",))
        )
        rollouts = evaluate_random(vector, 30, 0)
        assert all(numbers["illegal_move"] == 0.0 for numbers in rollouts.numbers[0])
        assert set(rollouts.returns[0]) <= {-1.0, 0.0, 1.0}
        vector.close()


@pytest.mark.parametrize("environments", [1, 3])
def test_the_random_policy_of_a_collection_makes_legal_moves_alone(environments: int) -> None:
    setting = EnvironmentSpec("reverie/TicTacToe-v0")
    env = make_environments(setting, environments, vectorization="sync", seed=0, protection=Protection())
    source = Collector(env, setting.id, 0)
    rows = source.collect(300, RandomPolicy(env.single_action_space, environments, 0))
    assert rows["terminated"].sum() > 20
    assert rows["reward"].min() == 0.0  # an illegal move would get -1
    source.close()
