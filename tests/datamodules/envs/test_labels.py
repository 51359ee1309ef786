from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from datamodules.envs.labels import CartPoleLabels, CatchLabels, Labels, read_labels
from datamodules.envs.make import EnvironmentSpec


def test_catch_says_where_ball_and_paddle_are() -> None:
    env = EnvironmentSpec("reverie/Catch-v0").make()
    board, _ = env.reset(seed=0)
    for action in (2, 2, 0):
        board = env.step(action)[0]
    found = read_labels(CatchLabels(), env, "catch")
    assert [type(value) for value in found.values()] == [int] * 3
    assert found["ball_row"] == 3
    assert found["paddle"] == 3
    assert board[found["ball_row"], found["ball_column"]] == board[9, found["paddle"]] == 255


def test_cartpole_says_its_four_numbers() -> None:
    env = EnvironmentSpec("CartPole-v1").make()
    observation, _ = env.reset(seed=0)
    found = read_labels(CartPoleLabels(), env, "cart")
    assert list(found) == ["cart_position", "cart_velocity", "pole_angle", "pole_velocity"]
    np.testing.assert_allclose(list(found.values()), observation, rtol=1e-6)
    assert [type(value) for value in found.values()] == [float] * 4


class Given(Labels):
    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self, env: gym.Env) -> Any:
        return self.value


def test_numbers_of_any_kind_are_taken() -> None:
    given = {"flag": np.bool_(True), "count": np.uint8(7), "share": np.float32(0.5)}
    found = read_labels(Given(given), gym.Env(), "x")
    assert found == {"flag": 1, "count": 7, "share": 0.5}
    assert [type(value) for value in found.values()] == [int, int, float]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({}, "Given read nothing of environment 'x'; return named numbers"),
        (None, "Given cannot read environment 'x': TypeError"),
        ({"a": float("nan")}, "of environment 'x' must be finite numbers, and a is float nan"),
        ({"a": np.zeros(2)}, "must be finite numbers, and a is"),
        ({"a": "red"}, "must be finite numbers, and a is"),
    ],
)
def test_what_is_no_label_is_refused(value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_labels(Given(value), gym.Env(), "x")
