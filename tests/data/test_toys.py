"""Catch: what it shows and pays, and the returns that are known beforehand."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from datamodules.envs.make import make_env
from datamodules.envs.toys import Catch


def play(env: Catch, seed: int, choose) -> tuple[float, int]:
    env.reset(seed=seed)
    total, steps = 0.0, 0
    while True:
        _, reward, terminated, truncated, _ = env.step(choose(env))
        total, steps = total + reward, steps + 1
        assert not truncated
        if terminated:
            return total, steps


def follow(env: Catch) -> int:
    return 1 + int(np.sign(env.ball_column - env.paddle))


def random_return(rows: int, columns: int) -> float:
    """Expected return of uniform actions: the paddle's random walk, which stops at the walls, against the ball."""
    walk = np.zeros(columns)
    walk[columns // 2] = 1.0
    move = np.zeros((columns, columns))
    for column in range(columns):
        for step in (-1, 0, 1):
            move[column, min(max(column + step, 0), columns - 1)] += 1 / 3
    caught = (walk @ np.linalg.matrix_power(move, rows - 1)).mean()  # the ball's column is uniform
    return 2 * caught - 1


def test_gymnasium_finds_nothing_wrong_with_it() -> None:
    check_env(gym.make("reverie/Catch-v0").unwrapped, skip_render_check=True)


def test_every_ball_can_be_caught_in_nine_steps() -> None:
    env = Catch()
    assert {play(env, seed, follow) for seed in range(30)} == {(1.0, 9)}
    assert {int(env.reset(seed=seed)[0][0].argmax()) for seed in range(30)} == set(range(5))


def test_random_actions_get_what_the_random_walk_says() -> None:
    rng, env = np.random.default_rng(0), Catch()
    returns = [play(env, seed, lambda _: rng.integers(3))[0] for seed in range(3000)]
    expected = random_return(10, 5)
    assert expected == pytest.approx(-0.6)
    assert np.mean(returns) == pytest.approx(expected, abs=4 * 0.8 / np.sqrt(3000))


def test_the_image_shows_ball_and_paddle() -> None:
    env = Catch(rows=3, columns=3)
    image, _ = env.reset(seed=0)
    assert image.dtype == np.uint8
    ball = env.ball_column
    expected = np.zeros((3, 3))
    expected[0, ball] = expected[2, 1] = 255
    np.testing.assert_array_equal(image[:, :, 0], expected)
    image, reward, ended, _, _ = env.step(0)
    assert (reward, ended) == (0.0, False)
    expected = np.zeros((3, 3))
    expected[1, ball] = expected[2, 0] = 255
    np.testing.assert_array_equal(image[:, :, 0], expected)
    _, reward, ended, _, _ = env.step(0)  # against the wall
    assert (reward, ended) == (1.0 if ball == 0 else -1.0, True)


def test_it_is_drawn_larger() -> None:
    env = make_env("reverie/Catch-v0", rows=4, columns=3, render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    assert picture.shape == (64, 48, 3)
    assert (picture > 0).sum() == 2 * 16 * 16 * 3


def test_a_board_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 rows"):
        make_env("reverie/Catch-v0", rows=1)
