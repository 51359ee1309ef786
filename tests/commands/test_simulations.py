"""`evaluate --simulations`: the same episodes with more and fewer simulations, their table, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import save, write_checkpoint
from command_line import mistake
from rich.console import Console
from search_agents import FirstLegal, KnowsTheRules

import commands.evaluate
import reverie
from callbacks.evaluation.rollout import Rollouts, evaluate_player, evaluation_environments
from commands.evaluate import evaluate
from commands.function_command import numbers_as_list
from commands.real_episodes import OnePolicy
from commands.simulations import FLAG, Searched, SearchPlays, print_searched
from datamodules.envs.make import EnvironmentSpec
from modules.algorithms.lookahead import Lookahead
from modules.trust.names import trusting

GAME = {"opponent": "random"}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("search") / "knows.ckpt"
    save(KnowsTheRules(EnvironmentSpec("reverie/TicTacToe-v0", GAME).spaces()), path)
    return path


def test_more_simulations_lose_fewer_games_of_the_same_ones(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "o.json"
    with trusting(["search_agents"]):
        evaluate(
            str(file), environment="reverie/TicTacToe-v0", environment_arguments=GAME, episodes=16, output=str(output),
            simulations=[0, 2, 64],
        )  # fmt: skip
    members = json.loads(output.read_text())["members"]
    assert [m["member"] for m in members] == ["policy alone", "simulations=2", "simulations=64"]
    alone, few, many = (np.array(m["returns"]) for m in members)
    # Number 0 is the policy itself, on the episodes that everyone plays.
    vector = evaluation_environments(EnvironmentSpec("reverie/TicTacToe-v0", GAME), 4, 0)
    assert np.array_equal(alone, evaluate_player(OnePolicy(FirstLegal()), vector, 16, 0).returns[0])
    vector.close()
    assert alone.mean() + 0.2 < many.mean()
    assert few.mean() < many.mean()
    shown = capsys.readouterr().out
    assert "by simulations, on the same episodes" in shown
    assert f"{(many - alone).mean():+.2f}" in shown


def test_games_of_both_sides_are_warned_of(file: Path) -> None:
    told = "played by both sides.* give it an opponent: --environment_arguments '{opponent: minimax}'"
    with trusting(["search_agents"]), pytest.warns(UserWarning, match=told):
        evaluate(str(file), environment="reverie/TicTacToe-v0", environment_arguments={"opponent": None}, episodes=1)


def test_the_settings_of_the_checkpoint_are_kept_but_for_the_number(file: Path) -> None:
    agent = KnowsTheRules(EnvironmentSpec("reverie/TicTacToe-v0", GAME).spaces())
    rule = agent.search.rule
    plays = SearchPlays(agent, "a.ckpt", [3, 0], Lookahead())
    assert plays.player(3) is agent
    assert (agent.search.simulations, agent.search.rule) == (3, rule)
    assert isinstance(plays.player(0), OnePolicy)
    assert SearchPlays(agent, "a.ckpt", None, Lookahead()).simulations == []


def test_the_table_is_paired_and_readable(capsys: pytest.CaptureFixture[str]) -> None:
    def episodes(*returns: float) -> Rollouts:
        return Rollouts(np.array([returns]), np.ones((1, len(returns)), np.int64), [[{}] * len(returns)])

    searched = [
        Searched(4, episodes(10.0, 20.0), 0.00125),
        Searched(16, episodes(13.0, 23.0), 0.004),
        Searched(50, episodes(np.nan, np.nan), 0.1),
    ]
    print_searched(Console(width=80, markup=False), searched)
    lines = capsys.readouterr().out.splitlines()
    assert "over 4" in lines[2]
    assert not any("…" in line for line in lines)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert rows == [
        ["4", "15.0", "-", "-", "1.25"],
        ["16", "18.0", "+3.00", "+3.00 .. +3.00", "4.00"],
        ["50", "diverged", "-", "-", "100.00"],
    ]
    print_searched(Console(width=100), [])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("given", "parsed"),
    [(["0", "4", "16"], [0, 4, 16]), (["4"], [4]), (["[0,4]"], [0, 4]), (["0", "4", "--episodes", "3"], [0, 4])],
)
def test_numbers_are_given_one_by_one_or_as_a_list(
    given: list[str], parsed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []

    def noted(ckpt_path: str, simulations: list[int] | None = None, episodes: int = 1) -> None:
        """Note them.

        Args:
            ckpt_path: file.
            simulations: numbers.
            episodes: number.
        """
        assert simulations is not None
        seen.append(simulations)

    monkeypatch.setattr(commands.evaluate, "evaluate", noted)
    reverie.main(["evaluate", "--ckpt_path", "a", "--simulations", *given])
    assert seen == [parsed]
    assert numbers_as_list(["--simulations=4", "--seed", "1"], FLAG) == ["--simulations=4", "--seed", "1"]


def test_what_does_not_fit_is_refused_in_one_line(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_checkpoint(tmp_path / "atac.ckpt")
    many = ["--episodes", "100000"]
    argv = ["evaluate", "--ckpt_path", str(tmp_path / "atac.ckpt"), *many, "--simulations", "0", "4"]
    assert "holds a ATAC, which acts without a search; leave it out" in mistake(argv, capsys)
    game = ["--environment", "reverie/TicTacToe-v0", "--trust", "search_agents"]
    argv = ["evaluate", "--ckpt_path", str(file), *many, *game, "--simulations"]
    assert "from 0, the policy alone, to 100,000; got [4, 4]" in mistake([*argv, "4", "4"], capsys)
    assert "got [-1]" in mistake([*argv, "-1"], capsys)
    assert "got []" in mistake([*argv, "[]"], capsys)
    assert "two comparisons" in mistake([*argv, "4", "--lookahead.model", "simulator"], capsys)
    for model in ("simulator", "own"):
        told = mistake([*argv[:-1], "--lookahead.model", model], capsys)
        assert "searches in a model of its own: leave --lookahead out, and compare numbers of simulations by" in told
    assert "simulations" in mistake([*argv, "four"], capsys)
