"""The behaviours that recorded datasets are made by, and the random policy."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from datamodules.played.behaviours import CONTROLLERS, Moment, swing_up, with_noise, with_random
from datamodules.played.minari_episodes import mean_return
from datamodules.played.policies import RandomPolicy

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
