"""Capture the flag as an environment: one match and many, seeds, checkpoints, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from datamodules.envs.capture_flag import CaptureFlag, CaptureFlags
from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.restarting import Protection
from datamodules.played.collector import Collector
from datamodules.played.policies import RandomPolicy
from datamodules.played.setting import make_environments

ID = "reverie/CaptureFlag-v0"


class Two:
    """Two who play the other side: 0 stays where it is, and 1 goes right; matches are dealt to them by chance."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[int], np.ndarray]] = []

    def draw(self, count: int, generator: np.random.Generator) -> np.ndarray:
        return generator.integers(2, size=count)

    def act(self, observation: Mapping[str, np.ndarray], who: np.ndarray) -> np.ndarray:
        self.asked.append((who.tolist(), observation["board"]))
        return np.where(who == 0, 0, 4)


def pair(**arguments: Any) -> CaptureFlags:
    return CaptureFlags(2, **arguments)


def test_gymnasium_finds_nothing_wrong_with_it() -> None:
    check_env(gym.make(ID).unwrapped, skip_render_check=True)
    picture = gym.make(ID, render_mode="rgb_array")
    picture.reset(seed=0)
    assert picture.render().shape == (112, 144, 3)


def test_pick_ups_are_rewarded_where_that_is_asked_for() -> None:
    """A team that runs straight at the flag of one that stands still, and the other way round."""
    for sign, who in ((1.0, 0), (-1.0, 1)):
        env = CaptureFlags(2, steps=12, pick_up=0.25)
        env.reset(seed=0)
        env.oppose(Two())
        env.matches.place[0] = [28, 9, 7, 17] if who == 0 else [0, 9, 34, 17]  # one of them is on row 3
        env.opponents[:] = who
        rewards = [float(env.step(np.array([4 * (1 - who), 0]))[1][0]) for _ in range(8)]
        assert [r for r in rewards if r] == [0.25 * sign]
        assert env.matches.carrier[0, 1 - who] == 2 * who


@pytest.mark.parametrize("opponent", ["random", "planned"])
def test_one_match_is_as_each_of_many(opponent: str) -> None:
    """The players of a team are asked one after the other, and see the same moment."""
    one, many = (made(opponent=opponent, steps=30, pick_up=0.5) for made in (CaptureFlag, pair))
    (seen, _), (rows, _) = one.reset(seed=3), many.reset(seed=3)
    rng = np.random.default_rng(0)
    for time in range(30):
        actions = rng.integers(5, size=2)
        for player in (0, 1):
            for key, values in seen.items():
                np.testing.assert_array_equal(values, rows[key][player])
            seen, reward, ended, cut, info = one.step(int(actions[player]))
            assert not cut
            if player == 0:
                assert (reward, ended, info) == (0.0, False, {})
        rows, rewards, terminated, truncated, told = many.step(actions)
        assert rewards.tolist() == [reward, reward]
        assert terminated.tolist() == [ended, ended] == [time == 29] * 2
        assert not truncated.any()
    assert {name: [value] * 2 for name, value in info.items()} == {name: x.tolist() for name, x in told.items()}
    assert info.keys() == {"success", "draw", "loss", "captures", "conceded"}
    with pytest.raises(gym.error.ResetNeeded):
        one.step(0)


def test_the_step_after_the_last_one_begins_new_matches() -> None:
    env = CaptureFlags(4, "planned", steps=5)
    first, _ = env.reset(seed=0)
    for _ in range(5):
        seen, *_ = env.step(np.array([4, 4, 4, 4]))
    again, reward, terminated, truncated, info = env.step(np.array([4, 4, 4, 4]))
    for key, values in first.items():
        np.testing.assert_array_equal(again[key], values)
    assert not np.stack([reward, terminated, truncated]).any()
    assert info == {}
    assert not np.array_equal(seen["board"], again["board"])


def test_a_seed_says_how_the_others_play() -> None:
    def boards(seed: int) -> np.ndarray:
        env = CaptureFlags(8, "planned", steps=20)
        env.reset(seed=seed)
        return np.stack([env.step(np.zeros(8, np.int64))[0]["board"] for _ in range(20)])

    np.testing.assert_array_equal(boards(1), boards(1))
    assert not np.array_equal(boards(1), boards(2))


def test_others_may_play_the_other_side() -> None:
    env, two = CaptureFlags(12, steps=4), Two()
    env.reset(seed=0)
    assert env.opponents.tolist() == [-1] * 6
    env.oppose(two)
    env.reset(seed=0)
    assert set(env.opponents.tolist()) == {0, 1}
    for _ in range(4):
        env.step(np.zeros(12, np.int64))
    who = np.repeat(env.opponents, 2)
    assert all(asked == who.tolist() for asked, _ in two.asked)
    moved = (two.asked[-1][1][..., 0] != two.asked[0][1][..., 0]).any((1, 2))
    np.testing.assert_array_equal(moved, who == 1)
    # They see their own half on the left: to the right it is towards the other side.
    assert (two.asked[-1][1][..., 0].nonzero()[2] == np.where(who == 1, 3, 1)).all()  # a wall is next
    results = env.take_results()
    assert results[:, 0].tolist() == env.opponents.tolist()
    assert results[:, 1].tolist() == [0] * 6
    assert len(env.take_results()) == 0


def test_results_tell_who_won() -> None:
    env = CaptureFlags(16, "planned")
    env.reset(seed=0)
    for _ in range(100):
        env.step(np.zeros(16, np.int64))
    assert env.take_results().tolist() == [[-1, -1]] * 8


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"opponent": "nobody"}, "opponent must be"),
        ({"steps": 0}, "steps must be"),
        ({"respawn": -1}, "respawn must be"),
        ({"pick_up": 2.0}, "pick_up must lie"),
    ],
)
def test_what_makes_no_match_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CaptureFlag(**arguments)
    with pytest.raises(ValueError, match=said):
        CaptureFlags(2, **arguments)


@pytest.mark.parametrize("players", [0, 1, 3])
def test_half_a_team_is_refused(players: int) -> None:
    with pytest.raises(ValueError, match="players here, two a match"):
        CaptureFlags(players)


# -------------------------------------------------------------------------------------------------------- checkpoints
def collected(two: Two | None, count: int = 8) -> Collector:
    spec = EnvironmentSpec(ID, {"steps": 7})
    env = make_environments(spec, count, vectorization="vector_entry_point", seed=5, protection=Protection())
    if two is not None:
        env.unwrapped.oppose(two)  # type: ignore[attr-defined]
    return Collector(env, ID, 5)


@pytest.mark.parametrize("others", [False, True])
@pytest.mark.parametrize("before", [1, 4, 8, 9])  # within a match, at an end, after a reset
def test_matches_continue_exactly(tmp_path: Path, before: int, others: bool) -> None:
    old = collected(Two() if others else None)
    policy = RandomPolicy(old.env.single_action_space, 8, seed=0)
    old.collect(before, policy)
    torch.save([old.state_dict(), policy.state_dict()], tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    expected = old.collect(20, policy)
    new, fresh = collected(Two() if others else None), RandomPolicy(old.env.single_action_space, 8, seed=1)
    assert new.load_state_dict(state[0]) is None
    fresh.load_state_dict(state[1])
    rows = new.collect(20, fresh)
    for key, value in rows.flatten_keys().items():
        assert torch.equal(value, expected.flatten_keys()[key]), key
    np.testing.assert_array_equal(old.env.unwrapped.take_results(), new.env.unwrapped.take_results())  # type: ignore[attr-defined]


def test_another_number_of_players_starts_anew(tmp_path: Path) -> None:
    old = collected(None)
    old.collect(3, RandomPolicy(old.env.single_action_space, 8, seed=0))
    state = old.state_dict()
    one = EnvironmentSpec(ID, {"steps": 7})
    env = make_environments(one, 8, vectorization="sync", seed=5, protection=Protection())
    assert Collector(env, ID, 5).load_state_dict(state) == "they were captured in another form"
