"""Environments by id, and the behaviours that act in them."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from datamodules.collection import mean_return
from datamodules.envs.behaviours import swing_up, uniform, with_noise, with_random
from datamodules.envs.make import make_env, make_vector_env

TORQUE = gym.spaces.Box(-2.0, 2.0, (1,), np.float32)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("Pendulumm-v1", "did you mean 'Pendulum-v1'"),
        ("Pendulum-v7", "did you mean 'Pendulum-v1'"),
        ("hoper", "did you mean 'Hopper-v"),
        ("zzzz", "pprint_registry"),
        ("no_such_package:X-v0", "no_such_package"),
    ],
)
def test_unknown_environment_names_the_nearest(wrong: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_env(wrong)


def test_mujoco_is_quiet_and_leaves_no_log(tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    env = make_env("HalfCheetah-v5")
    env.reset(seed=0)
    env.step(env.action_space.sample())
    env.close()
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_vector_env_is_seeded_copy_by_copy() -> None:
    env = make_vector_env("Pendulum-v1", 3, seed=7)
    first, _ = env.reset(seed=7)
    for copy in range(3):
        alone, _ = make_env("Pendulum-v1").reset(seed=7 + copy)
        np.testing.assert_array_equal(first[copy], alone)
    again = make_vector_env("Pendulum-v1", 3, seed=7)
    other = make_vector_env("Pendulum-v1", 3, seed=7)
    np.testing.assert_array_equal(again.reset()[0], other.reset()[0])
    assert not np.array_equal(again.reset()[0], first)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    with pytest.raises(ValueError, match="count=0"):
        make_vector_env("Pendulum-v1", 0, seed=0)


def test_swing_up_is_near_the_expert_and_noise_degrades_it() -> None:
    rng = np.random.default_rng(0)

    def measure(level: float) -> float:
        return mean_return("Pendulum-v1", with_noise(swing_up, level, TORQUE, rng), count=50, seed=0, copies=50)

    clean, noisy, wild = measure(0.0), measure(1.0), measure(2.0)
    assert clean > -200  # a trained expert gets -150
    assert clean > noisy > wild
    assert wild > -1000  # uniformly random actions get -1200


def test_noise_has_the_asked_deviation_and_stays_inside() -> None:
    def zero(observation: np.ndarray) -> np.ndarray:
        return np.zeros((len(observation), 1), np.float32)

    rows = np.zeros((20_000, 3), np.float32)
    small = with_noise(zero, 0.25, TORQUE, np.random.default_rng(0))(rows)
    assert small.shape == (20_000, 1)
    assert small.dtype == np.float32
    assert small.std() == pytest.approx(0.25 * 2.0, rel=0.03)
    large = with_noise(zero, 5.0, TORQUE, np.random.default_rng(0))(rows)
    assert large.min() == -2.0
    assert large.max() == 2.0


def test_random_mixture_replaces_the_asked_share() -> None:
    def one(observation: np.ndarray) -> np.ndarray:
        return np.ones((len(observation), 1), np.float32)

    rows = np.zeros((20_000, 3), np.float32)
    mixed = with_random(one, 0.3, TORQUE, np.random.default_rng(0))(rows)
    assert (mixed != 1.0).mean() == pytest.approx(0.3, abs=0.02)
    random = uniform(TORQUE, np.random.default_rng(0))(rows)
    assert random.mean() == pytest.approx(0.0, abs=0.05)
    assert random.std() == pytest.approx(4.0 / np.sqrt(12.0), rel=0.03)


def test_an_argument_that_the_environment_does_not_take_is_named() -> None:
    with pytest.raises(ValueError, match=r"'Pendulum-v1' cannot be made with the arguments \{'gravity': 1\}"):
        make_env("Pendulum-v1", gravity=1)
