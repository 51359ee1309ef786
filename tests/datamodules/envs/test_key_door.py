"""The grid with a key and a door: its rules, its events, and the shortest way."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from datamodules.envs.key_door import KeyDoor
from datamodules.envs.make import EnvironmentSpec

UP, RIGHT, DOWN, LEFT = range(4)


def placed(agent: tuple[int, int], key: tuple[int, int], door: int, goal: tuple[int, int], **arguments: int) -> KeyDoor:
    """The grid with everything at these rows and columns."""
    env = KeyDoor(**arguments)
    env.reset(seed=0)
    env.agent, env.key, env.door, env.goal = agent, key, (door, env.wall), goal
    return env


def play(env: KeyDoor, actions: list[int]) -> tuple[list[list[int]], list[float], list[tuple[bool, bool]]]:
    """Events, rewards and flags of the steps."""
    steps = [env.step(action) for action in actions]
    return [seen["events"].tolist() for seen, *_ in steps], [s[1] for s in steps], [(s[2], s[3]) for s in steps]


def test_gymnasium_finds_nothing_wrong_with_it() -> None:
    check_env(gym.make("reverie/KeyDoor-v0").unwrapped, skip_render_check=True)


def test_key_door_and_goal_are_told_once_each_and_the_goal_is_rewarded() -> None:
    env = placed((1, 1), (1, 0), 2, (2, 5))
    events, rewards, ends = play(env, [LEFT, RIGHT, DOWN, RIGHT, RIGHT, LEFT, RIGHT, RIGHT, RIGHT])
    nothing, key, door, win = [0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]
    assert events == [key, nothing, nothing, nothing, door, nothing, nothing, nothing, win]
    assert rewards == [0.0] * 8 + [1.0]
    assert ends == [(False, False)] * 8 + [(True, False)]
    assert placed((1, 1), (1, 0), 2, (2, 5)).step(LEFT)[4] == {}


def test_wall_door_and_edges_hold_the_agent() -> None:
    env = placed((0, 2), (6, 0), 0, (0, 4))
    for action in (UP, RIGHT):  # the edge, and the door without the key
        seen, *_ = env.step(action)
        assert env.agent == (0, 2)
        assert not seen["events"].any()
    env = placed((3, 2), (3, 1), 0, (0, 4))
    play(env, [LEFT, RIGHT, RIGHT])  # with the key, but the wall is there
    assert (env.agent, env.has_key, env.is_open) == ((3, 2), True, False)
    env = placed((6, 6), (0, 0), 0, (0, 4))
    play(env, [DOWN, RIGHT])
    assert env.agent == (6, 6)


def test_the_place_is_told_in_ways_from_the_agent() -> None:
    env = placed((1, 1), (1, 0), 2, (2, 5))
    seen, *_ = env.step(DOWN)
    expected = np.array([-1, -1, 0, 2, 0, 4, 2, 1]) / 6
    np.testing.assert_allclose(seen["place"], [*expected, 0, 0], rtol=1e-6)
    play(env, [UP])
    seen, *_ = env.step(LEFT)
    np.testing.assert_allclose(seen["place"], [*np.array([0, 0, 1, 3, 1, 5, 1, 0]) / 6, 1, 0], rtol=1e-6)


def test_an_episode_is_cut_at_the_limit_unless_it_is_won_then() -> None:
    env = placed((1, 1), (1, 0), 2, (2, 5), limit=3)
    assert [env.step(UP)[2:] for _ in range(3)] == [(False, False, {})] * 2 + [(False, True, {"success": False})]
    env = placed((2, 3), (0, 0), 2, (2, 5), limit=2)
    assert play(env, [RIGHT])[2] == [(False, False)]
    assert env.step(RIGHT)[1:] == (1.0, True, False, {"success": True})


def steps_to(here: tuple[int, int], there: tuple[int, int]) -> list[int]:
    rows, columns = there[0] - here[0], there[1] - here[1]
    return [DOWN if rows > 0 else UP] * abs(rows) + [RIGHT if columns > 0 else LEFT] * abs(columns)


def test_every_episode_can_be_won_in_26_steps_and_all_places_are_drawn() -> None:
    env, most, doors, goals = KeyDoor(), 0, set(), set()
    for seed in range(300):
        env.reset(seed=seed)
        assert env.agent != env.key
        assert env.agent[1] < 3
        assert env.key[1] < 3 < env.goal[1]
        doors.add(env.door[0])
        goals.add(env.goal)
        before, behind = (env.door[0], 2), (env.door[0], 4)
        way = steps_to(env.agent, env.key) + steps_to(env.key, before) + [RIGHT, RIGHT]
        _, rewards, _ = play(env, way)
        if behind != env.goal:
            assert not any(rewards)
            _, rewards, _ = play(env, steps_to(behind, env.goal))
        assert rewards[-1] == 1.0
        most = max(most, env.time)
    assert most <= 26
    assert doors == set(range(7))
    assert len(goals) == 21


def test_random_actions_win_about_one_episode_in_a_hundred() -> None:
    env, random = KeyDoor(), np.random.default_rng(0)
    won = 0
    for seed in range(600):
        env.reset(seed=seed)
        ended = cut = False
        while not (ended or cut):
            _, reward, ended, cut, _ = env.step(int(random.integers(4)))
        won += reward == 1.0
    assert 0.003 < won / 600 < 0.03


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 6}, "size must be odd, for the wall is in the middle, got 6"),
        ({"size": 3}, "size"),
        ({"limit": 0}, "limit"),
    ],
)
def test_what_it_refuses(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EnvironmentSpec("reverie/KeyDoor-v0", arguments).make()
