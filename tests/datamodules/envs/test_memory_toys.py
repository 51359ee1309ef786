"""Toys for memories: cues, cards, known returns, and what they refuse."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.memory_toys import DelayedCue, Pairs


@pytest.mark.parametrize("id", ["reverie/DelayedCue-v0", "reverie/Pairs-v0"])
def test_gymnasium_finds_nothing_wrong_with_it(id: str) -> None:
    check_env(gym.make(id).unwrapped, skip_render_check=True)


def test_the_cue_is_seen_once_and_is_the_answer_to_the_flag() -> None:
    env = DelayedCue(cues=3, delay=4, bits=2)
    cues, bits = set(), []
    for seed in range(40):
        seen, _ = env.reset(seed=seed)
        cue = int(seen[:3].argmax())
        cues.add(cue)
        assert seen[:3].sum() == 1
        for step in range(1, 6):
            seen, reward, terminated, truncated, info = env.step(seed % 3)
            assert (seen[:3].sum(), seen[5]) == (0, step == 5)
            assert (reward, terminated, truncated, info) == (0.0, False, False, {})
            bits.append(seen[3:5])
        answer = cue if seed % 2 else (cue + 1) % 3
        _, reward, terminated, truncated, info = env.step(answer)
        assert (reward, terminated, truncated) == (1.0 if seed % 2 else -1.0, True, False)
        assert info == {"success": bool(seed % 2)}
    assert cues == {0, 1, 2}
    assert np.mean(bits) == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(400))


def remembering(env: Pairs, seed: int) -> tuple[float, int, bool]:
    """Return, steps and whether it ended by itself, of a perfect memory."""
    env.reset(seed=seed)
    known: dict[int, int] = {}  # the card that a symbol was seen on, while its pair lies there
    total, steps = 0.0, 0
    while True:
        seen, reward, ended, cut, info = env.step(env.cards)
        card, symbol = int(seen[: env.cards].argmax()), int(seen[env.cards :].argmax())
        total, steps = total + reward, steps + 1
        if not (ended or cut) and reward < 0.0 and symbol in known:
            seen, reward, ended, cut, info = env.step(known[symbol])
            total, steps = total + reward, steps + 1
            assert reward == 2.0
        known[symbol] = card
        if ended or cut:
            return total, steps, info["success"]


@pytest.mark.parametrize("cards", [2, 4, 6, 8])
def test_a_perfect_memory_takes_all_pairs_and_loses_nothing(cards: int) -> None:
    env, returns = Pairs(cards), []
    for seed in range(60):
        total, steps, success = remembering(env, seed)
        assert total >= 0.0
        assert steps <= 2 * cards
        assert success
        returns.append(total)
    if cards == 4:  # 2 where the second card makes a pair, 1 where the third one does, 0 otherwise: a third each
        assert np.mean(returns) == pytest.approx(1.0, abs=4 * 0.82 / np.sqrt(60))


def test_a_taken_card_and_the_same_card_twice_are_no_pair_and_the_game_is_cut() -> None:
    env = Pairs(4)
    env.reset(seed=0)
    env.symbols = np.array([0, 1, 0, 1])
    seen, reward, *_ = env.step(0)
    assert seen.tolist() == [1, 0, 0, 0, 1, 0]
    assert reward == env.step(0)[1] == -1.0  # the same card
    assert env.step(2)[1] == 2.0
    assert env.step(2)[1] == env.step(0)[1] == -1.0  # both are gone
    assert env.step(4)[0][:4].tolist() == [0, 1, 0, 0]  # the lowest that was not turned
    assert env.step(2)[2:4] == (False, False)
    _, reward, ended, cut, info = env.step(3)  # a taken card was turned in between
    assert (reward, ended, cut, info) == (-1.0, False, True, {"success": False})
    assert env.step(4)[0][:4].tolist() == [0, 0, 0, 1]  # all were turned: the last card


@pytest.mark.parametrize(
    ("id", "arguments", "said"),
    [
        ("DelayedCue", {"cues": 1}, "cues must be at least 2, got 1"),
        ("DelayedCue", {"delay": -1}, "delay must be at least 0, got -1"),
        ("Pairs", {"cards": 5}, "cards must be an even number, two of each symbol, got 5"),
        ("Pairs", {"cards": 0}, "cards must be at least 1, got 0"),
    ],
)
def test_games_that_are_not_there_are_refused(id: str, arguments: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        EnvironmentSpec(f"reverie/{id}-v0", arguments).make()
