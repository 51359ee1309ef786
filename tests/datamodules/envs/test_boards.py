"""Boards: who sees what, who gets what, opponents, illegal moves, and copies."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from datamodules.envs.boards import BoardGame, ConnectFour, TicTacToe
from datamodules.envs.make import EnvironmentSpec, make_env
from datamodules.envs.snapshot import capture, restore

IDS = ("reverie/TicTacToe-v0", "reverie/ConnectFour-v0")


def legal(observation: dict[str, np.ndarray]) -> np.ndarray:
    return np.flatnonzero(observation["action_mask"])


def game(env: gym.Env, seed: int, rng: np.random.Generator | None = None) -> tuple[float, list[int], dict[str, Any]]:
    """One game of legal actions, at random or the first ones: its last reward, actions and last info."""
    observation, _ = env.reset(seed=seed)
    actions = []
    while True:
        actions.append(int(legal(observation)[0] if rng is None else rng.choice(legal(observation))))
        observation, reward, terminated, truncated, info = env.step(actions[-1])
        assert not truncated
        if terminated:
            assert not observation["action_mask"].any()
            return float(reward), actions, info
        assert (reward, info) == (0.0, {})


@pytest.mark.parametrize("opponent", [None, "random", "minimax"])
@pytest.mark.parametrize("id", IDS)
def test_gymnasium_finds_nothing_wrong_with_it(id: str, opponent: str | None) -> None:
    check_env(gym.make(id, opponent=opponent).unwrapped, skip_render_check=True)


def test_each_player_sees_the_own_stones_first_and_the_mover_gets_the_win() -> None:
    env = TicTacToe()
    seen, _ = env.reset(seed=0)
    assert env.self_play
    assert seen["board"].sum() == 0
    assert seen["action_mask"].tolist() == [1] * 9
    for turn, action in enumerate((4, 0, 2, 3)):
        before = seen["board"]
        seen, reward, terminated, _, _ = env.step(action)
        assert (reward, terminated) == (0.0, False)
        expected = before[..., ::-1].copy()  # the other player looks at it
        expected[action // 3, action % 3, 1] = 1
        assert np.array_equal(seen["board"], expected)
        assert seen["action_mask"].sum() == 9 - turn - 1
        assert not seen["action_mask"][action]
    seen, reward, terminated, _, info = env.step(6)
    assert (reward, terminated, info) == (1.0, True, {"illegal_move": False})
    assert seen["action_mask"].tolist() == [0] * 9
    assert np.flatnonzero(seen["board"][..., 1]).tolist() == [2, 4, 6]
    with pytest.raises(gym.error.ResetNeeded):
        env.step(1)


def test_a_full_board_is_a_draw() -> None:
    env = TicTacToe()
    env.reset(seed=0)
    rewards = [env.step(action)[1:3] for action in (4, 0, 1, 7, 2, 6, 3, 5, 8)]
    assert rewards == [(0.0, False)] * 8 + [(0.0, True)]


def test_stones_fall_in_connect_four() -> None:
    env = ConnectFour()
    env.reset(seed=0)
    for _ in range(3):
        env.step(3)
        seen = env.step(3)[0]
    assert np.array_equal(seen["board"][:, 3, 0], [0, 1, 0, 1, 0, 1])
    assert np.array_equal(seen["board"][:, 3, 1], [1, 0, 1, 0, 1, 0])
    assert seen["action_mask"].tolist() == [1, 1, 1, 0, 1, 1, 1]


@pytest.mark.parametrize("opponent", [None, "random"])
def test_an_illegal_move_loses_the_game(opponent: str | None) -> None:
    env = ConnectFour(opponent, side=0)
    for bad in (3, 7, -1):
        env.reset(seed=0)
        for _ in range(6 if bad == 3 else 0):
            seen, _, terminated, _, _ = env.step(3)
            if opponent is not None and not seen["action_mask"][3]:
                break
            assert not terminated
        seen, reward, terminated, truncated, info = env.step(bad)
        assert (reward, terminated, truncated) == (-1.0, True, False)
        assert info["illegal_move"]
        assert info.get("success", False) is False
        assert not seen["action_mask"].any()


def test_the_side_is_drawn_or_given_and_the_opponent_s_draws_are_the_same() -> None:
    drawn, second = TicTacToe("random"), TicTacToe("random", side=1)
    stones = [int(drawn.reset(seed=seed)[0]["board"].sum()) for seed in range(200)]
    assert set(stones) == {0, 1}
    assert np.mean(stones) == pytest.approx(0.5, abs=4 * 0.5 / 200**0.5)
    for seed in range(200):
        board = second.reset(seed=seed)[0]["board"]
        assert (board[..., 0].sum(), board[..., 1].sum()) == (0, 1)
        if stones[seed]:
            assert np.array_equal(drawn.reset(seed=seed)[0]["board"], board)


@pytest.mark.parametrize(("id", "opening"), [(IDS[0], 8), (IDS[1], 12)])
def test_games_against_oneself_may_begin_with_stones_at_random(id: str, opening: int) -> None:
    env = gym.make(id, opening=opening).unwrapped
    assert isinstance(env, BoardGame)
    counts, boards = [], set()
    for seed in range(400):
        seen, info = env.reset(seed=seed)
        own, other = (int(seen["board"][..., k].sum()) for k in (0, 1))
        assert own + other <= opening
        assert own == (own + other) // 2  # who has fewer stones moves
        assert not any(env.rules.won(stones) for stones in env.stones)
        assert np.array_equal(legal(seen), env.rules.legal(env.stones[0] | env.stones[1]))
        assert len(legal(seen)) > 0
        assert info == {}
        counts.append(own + other)
        boards.add(seen["board"].tobytes())
        game(env, seed)  # goes on to an end
    found = np.bincount(counts, minlength=opening + 1)
    assert found.min() > 0.5 * 400 / (opening + 1)  # all numbers alike
    assert found.max() < 1.6 * 400 / (opening + 1)
    assert len(boards) > 200


def test_an_opening_changes_no_game_against_an_opponent_and_no_other_draw() -> None:
    plain, opened = TicTacToe("random"), TicTacToe("random", opening=5)
    assert [game(plain, seed) for seed in range(20)] == [game(opened, seed) for seed in range(20)]
    assert game(TicTacToe(), 0) == game(TicTacToe(opening=0), 0)


@pytest.mark.parametrize("id", IDS)
def test_the_same_seed_is_the_same_game_and_others_differ(id: str) -> None:
    env, other = (make_env(id, opponent="minimax") for _ in range(2))
    games = [game(env, seed) for seed in range(8)]
    assert games == [game(other, seed) for seed in range(8)]
    assert len({tuple(actions) for _, actions, _ in games}) > 2


def test_nobody_beats_a_perfect_opponent() -> None:
    rng, env = np.random.default_rng(0), TicTacToe("minimax")
    ends = [game(env, seed, rng) for seed in range(40)]
    assert {reward for reward, _, _ in ends} == {-1.0, 0.0}
    assert not any(info["success"] for _, _, info in ends)


def test_random_games_end_as_often_as_is_known() -> None:
    rng, env = np.random.default_rng(0), TicTacToe("random", side=0)
    ends = [game(env, seed, rng) for seed in range(300)]
    assert all(info["success"] == (reward == 1.0) for reward, _, info in ends)
    assert all((info["draw"], info["loss"]) == (reward == 0.0, reward == -1.0) for reward, _, info in ends)
    returns = np.array([reward for reward, _, _ in ends])
    # Who moves first wins 737 of 1260 such games, the other one 363, and 160 are drawn.
    for reward, share in ((1.0, 737 / 1260), (-1.0, 363 / 1260)):
        assert np.mean(returns == reward) == pytest.approx(share, abs=4 * 0.5 / 300**0.5)


def test_minimax_beats_random_moves_in_connect_four() -> None:
    rng, env = np.random.default_rng(0), ConnectFour("minimax")
    assert [game(env, seed, rng)[0] for seed in range(20)].count(-1.0) >= 19


@pytest.mark.parametrize("opponent", [None, "random", "minimax"])
@pytest.mark.parametrize("id", IDS)
def test_a_copy_goes_on_as_the_original(id: str, opponent: str | None) -> None:
    spec = EnvironmentSpec(id, {"opponent": opponent})
    env, copy = spec.make(), spec.make()
    assert env.observation_space["board"].shape == ({9: 18, 7: 84}[env.action_space.n],)
    observation, _ = env.reset(seed=3)
    env.step(legal(observation)[0])
    copy.reset(seed=4)
    restore(copy, capture(env))
    for _ in range(60):
        mine, theirs = (e.unwrapped for e in (env, copy))
        assert isinstance(mine, BoardGame)
        if mine.over:
            pair = [e.reset() for e in (env, copy)]
        else:
            action = mine.rules.legal(mine.stones[0] | mine.stones[1])[-1]
            pair = [e.step(action) for e in (env, copy)]
        assert all(np.array_equal(pair[0][0][key], pair[1][0][key]) for key in ("board", "action_mask"))
        assert pair[0][1:] == pair[1][1:]
        assert (mine.stones, mine.mover) == (theirs.stones, theirs.mover)


def test_it_is_drawn_in_the_colours_of_the_players() -> None:
    env = make_env(IDS[0], render_mode="rgb_array")
    env.reset(seed=0)
    env.step(0)
    env.step(1)
    picture = env.render()
    assert picture.shape == (48, 48, 3)
    assert [tuple(picture[8, x]) for x in (8, 24, 40)] == [(250, 220, 60), (230, 60, 50), (40, 40, 40)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"opponent": "mcts"}, "opponent must be random, minimax or null for both sides, got 'mcts'"),
        ({"side": 2}, "side must be 0 for the first move, 1 for the second or null for either, got 2"),
        ({"opponent": "minimax", "depth": 0}, "depth must lie"),
    ],
)
def test_arguments_that_are_none_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_env(IDS[1], **arguments)
