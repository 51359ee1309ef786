"""Toys: observations, rewards, and the returns that are known beforehand."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from datamodules.envs.make import make_env
from datamodules.envs.toys import Catch, PointMass, TMaze, TwoCatch


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


@pytest.mark.parametrize("id", ["reverie/Catch-v0", "reverie/TwoCatch-v0", "reverie/TMaze-v0", "reverie/PointMass-v0"])
def test_gymnasium_finds_nothing_wrong_with_it(id: str) -> None:
    check_env(gym.make(id).unwrapped, skip_render_check=True)


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


def test_a_late_reward_comes_after_a_number_of_steps_that_is_drawn_and_in_which_nothing_moves() -> None:
    env = Catch(delay=(1, 3))
    found = [play(env, seed, follow) for seed in range(60)]
    assert {value for value, _ in found} == {1.0}
    assert {steps for _, steps in found} == {10, 11, 12}
    assert {play(Catch(delay=[0, 1]), seed, follow)[1] for seed in range(30)} == {9, 10}
    env.reset(seed=1)
    for _ in range(9):
        fallen, reward, terminated, *_ = env.step(2)
        assert (reward, terminated) == (0.0, False)
    later, reward, terminated, *_ = env.step(0)
    assert np.array_equal(fallen, later)
    assert terminated == (reward != 0.0)
    # Without a delay the balls are those that they always were.
    assert [int(Catch(delay=(0, 3)).reset(seed=s)[0][0].argmax()) for s in range(9)] == [
        int(Catch().reset(seed=s)[0][0].argmax()) for s in range(9)
    ]
    for wrong in ((2, 1), (-1, 2), (1,)):
        with pytest.raises(ValueError, match=r"delay must be the least and the greatest number of steps"):
            Catch(delay=wrong)


def test_a_wind_blows_the_ball_by_chance_and_who_follows_it_catches_it() -> None:
    env, drifts = Catch(wind=0.5), []
    for seed in range(200):
        env.reset(seed=seed)
        for step in range(9):
            before = env.ball_column
            _, reward, terminated, *_ = env.step(follow(env))
            if 0 < before < 4:
                drifts.append((step == 8, env.ball_column - before))
        assert (reward, terminated) == (1.0, True)
    last = [drift for at_end, drift in drifts if at_end]
    others = np.array([drift for at_end, drift in drifts if not at_end])
    assert set(last) == {0}
    for drift, chance in ((-1, 0.25), (0, 0.5), (1, 0.25)):
        found = np.mean(others == drift)
        assert found == pytest.approx(chance, abs=4 * np.sqrt(chance * (1 - chance) / len(others)))
    # The ball's column stays uniform, so that random actions get what they get without a wind.
    rng = np.random.default_rng(0)
    returns = [play(env, seed, lambda _: rng.integers(3))[0] for seed in range(2000)]
    assert np.mean(returns) == pytest.approx(random_return(10, 5), abs=4 * 0.8 / np.sqrt(2000))
    with pytest.raises(ValueError, match=r"wind must lie in \[0, 1\]"):
        Catch(wind=1.5)


def push(env: PointMass, seed: int, force) -> float:
    state, _ = env.reset(seed=seed)
    total, truncated, t = 0.0, False, 0
    while not truncated:
        state, reward, terminated, truncated, _ = env.step(np.array([force(t, state)], np.float32))
        total, t = total + reward, t + 1
        assert not terminated
    assert t == 20
    return total


def test_the_best_forces_on_a_point_mass_are_within_their_bound_and_return_what_is_known() -> None:
    env, gains, largest = PointMass(), PointMass.gains(), 0.0

    def best(t: int, state: np.ndarray) -> float:
        nonlocal largest
        largest = max(largest, abs(gains[t] @ state))
        return float(-gains[t] @ state)

    found = {round(push(env, seed, best), 6) for seed in range(4)}
    assert found == {round(PointMass.best_return(), 6)}
    assert PointMass.best_return() == pytest.approx(-0.589056, abs=1e-6)
    assert 2.0 < largest < 2.5
    assert push(env, 0, lambda t, state: 0.0) == pytest.approx(-1.8)
    others = (push(env, 0, lambda t, state, c=c: best(t, state) + c) for c in (-0.05, 0.05))
    assert max(others) < PointMass.best_return() - 1e-4
    assert {float(env.reset(seed=seed)[0][0]) for seed in range(20)} == {np.float32(-0.3), np.float32(0.3)}
    assert push(env, 0, lambda t, state: 99.0) == push(env, 0, lambda t, state: 2.5)


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
    with pytest.raises(ValueError, match="rows must be at least 2"):
        make_env("reverie/Catch-v0", rows=1)


# ---------------------------------------------------------------------------------------------------------- two games
def test_either_game_comes_as_often_and_pays_in_its_scale() -> None:
    env = TwoCatch(scales=[0.5, 1e4])
    games = []
    for seed in range(400):
        seen, _ = env.reset(seed=seed)
        assert seen["task"].dtype == np.float32
        games.append(int(seen["task"].argmax()))
        assert seen["task"].tolist() == [1.0 - games[-1], games[-1]]
        assert play(env, seed, follow) == ([0.5, 1e4][games[-1]], 9)
    assert np.mean(games) == pytest.approx(0.5, abs=4 * 0.5 / 20)
    away = TwoCatch()
    total, _ = play(away, 0, lambda env: 2 - follow(env))
    assert total == -away.scales[away.game]


def test_a_game_alone_has_the_balls_of_both() -> None:
    both, first, second = TwoCatch(), TwoCatch(game=0), TwoCatch(game=1)
    for seed in range(20):
        images = [env.reset(seed=seed)[0]["image"] for env in (both, first, second)]
        assert all((image == images[0]).all() for image in images)
        assert (first.game, second.game) == (0, 1)
    assert first.step(1)[0]["task"].tolist() == [1.0, 0.0]
    assert second.step(1)[0]["task"].tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"scales": [1.0]}, "two scales"), ({"game": 2}, "game must be 0, 1 or None for both, got 2")],
)
def test_games_that_are_not_there_are_refused(arguments: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_env("reverie/TwoCatch-v0", **arguments)


# ------------------------------------------------------------------------------------------------------------- T-maze
FORWARD, LEFT, RIGHT = 0, 1, 2


def test_the_cue_is_seen_once_and_pays_at_the_end_of_the_corridor() -> None:
    env = TMaze(corridor=3)
    cues = set()
    for seed in range(20):
        seen, _ = env.reset(seed=seed)
        cue = seen[0]
        cues.add(float(cue))
        assert seen.tolist() == [cue, 0, 1]
        for place in (1, 2, 3):
            seen, reward, terminated, truncated, _ = env.step(FORWARD)
            assert seen.tolist() == [0, place == 3, 1]
            assert (reward, terminated, truncated) == (0.0, False, False)
        right_turn = RIGHT if cue > 0 else LEFT
        turn = right_turn if seed % 2 else LEFT + RIGHT - right_turn
        _, reward, terminated, truncated, _ = env.step(turn)
        assert (reward, terminated, truncated) == (1.0 if seed % 2 else -1.0, True, False)
    assert cues == {-1.0, 1.0}


def test_other_actions_leave_the_place_as_it_is() -> None:
    env = TMaze(corridor=2)
    env.reset(seed=0)
    for action in (LEFT, FORWARD, RIGHT, RIGHT, FORWARD, FORWARD, FORWARD):
        seen, reward, terminated, _, _ = env.step(action)
        assert (reward, terminated) == (0.0, False)
    assert seen.tolist() == [0, 1, 1]
    assert env.step(LEFT)[2]


@pytest.mark.parametrize("turn", [False, True])
def test_an_episode_is_cut_after_so_many_steps(turn: bool) -> None:
    env = TMaze(corridor=2)
    env.reset(seed=0)
    for _ in range(4 * 2 + 10 - 1):
        assert env.step(FORWARD)[1:4] == (0.0, False, False)
    _, reward, terminated, truncated, _ = env.step(LEFT if turn else FORWARD)
    assert (abs(reward), terminated, truncated) == ((1.0, True, False) if turn else (0.0, False, True))


def test_random_turns_get_nothing_on_average() -> None:
    rng, env = np.random.default_rng(0), make_env("reverie/TMaze-v0", corridor=4)
    returns = []
    for seed in range(1000):
        env.reset(seed=seed)
        ended, total = False, 0.0
        while not ended:
            _, reward, terminated, truncated, _ = env.step(int(rng.integers(3)))
            ended, total = terminated or truncated, total + float(reward)
        returns.append(total)
    assert np.mean(returns) == pytest.approx(0.0, abs=4 / np.sqrt(1000))
    assert np.mean(np.abs(returns)) > 0.9


def test_a_corridor_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="corridor must be at least 1, got 0"):
        make_env("reverie/TMaze-v0", corridor=0)
