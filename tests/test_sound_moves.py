"""Sound moves of tic-tac-toe: all positions, known ones among them, and players whose shares are known."""

from __future__ import annotations

import sys
from pathlib import Path

import gymnasium as gym
import pytest
import torch
from search_agents import KnowsTheRules
from torch import Tensor

from datamodules.envs.board_rules import TIC_TAC_TOE
from datamodules.envs.boards import TicTacToe
from modules.batch import ACTION_MASK, Spaces

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import sound_moves


@pytest.fixture(scope="module")
def known() -> list[sound_moves.Position]:
    return sound_moves.positions()


def stones(*cells: int) -> int:
    return sum(1 << TIC_TAC_TOE.bits[cell] for cell in cells)


def test_all_positions_are_found_and_what_their_moves_are_worth(known: list[sound_moves.Position]) -> None:
    by_stones = {(p.own, p.other): p for p in known}
    assert len(by_stones) == len(known) == 4520
    assert set(by_stones[0, 0].worth.values()) == {0}  # a draw, however it begins
    # To a stone in the corner only the centre is an answer; two in a row, open, win or must be stopped.
    assert by_stones[0, stones(0)].sound == [4]
    winning = by_stones[stones(0, 1), stones(3, 4)]
    assert winning.wins == [2]
    assert winning.sound[0] == 2
    assert by_stones[stones(4), stones(0, 1)].sound == [2]
    assert by_stones[stones(4), stones(0, 1)].worth[3] == -1


def test_shares_are_those_of_who_always_errs_and_of_who_never_does(known: list[sound_moves.Position]) -> None:
    sound = torch.tensor([p.sound[-1] for p in known])
    unsound = torch.tensor([min(p.worth, key=p.worth.__getitem__) for p in known])
    assert set(sound_moves.shares(known, lambda _: sound).values()) >= {1.0}
    assert sound_moves.shares(known, lambda _: sound)["all"] == 1.0
    errs = sound_moves.shares(known, lambda _: unsound)
    assert errs["all"] == 0.0
    half = torch.where(torch.arange(len(known)) % 2 == 0, sound, unsound)
    assert 0.4 < sound_moves.shares(known, lambda _: half)["all"] < 0.6


def test_an_agent_is_asked_as_in_a_game(known: list[sound_moves.Position]) -> None:
    """A search in the true rules finds nearly all, and all wins."""
    env = TicTacToe()
    agent = KnowsTheRules(Spaces(env.observation_space, env.action_space), simulations=24)
    late = [p for p in known if (p.own | p.other).bit_count() >= 6]

    def legal(seen: dict[str, Tensor]) -> Tensor:
        action = sound_moves.player(agent)(seen)
        assert bool(seen[ACTION_MASK].gather(1, action.unsqueeze(1)).all())
        return action

    torch.manual_seed(0)
    found = sound_moves.shares(late, legal)
    assert found["all"] > 0.97
    assert found["takes a win"] == 1.0
    assert set(found) == {"all", "6 stones", "7 stones", "takes a win"}


def test_what_does_not_search_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sound_moves, "positions", list)
    monkeypatch.setattr(sound_moves, "load_agent", lambda path: (gym.Env(), None))
    monkeypatch.setattr(sys, "argv", ["sound_moves.py", "a.ckpt"])
    with pytest.raises(SystemExit):
        sound_moves.main()
    assert "a.ckpt: Env does not act by a search" in capsys.readouterr().err
