"""Agents in games of two players: those that know of turns, those that do not, and what is told of both sides."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from callbacks.evaluation.played_environment import choose_environment
from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.recorded_environment import Changes
from datamodules.played.sides import check_sides, warn_of_both_sides
from modules.algorithms.muzero import MuZero

CONFIGS = Path(__file__).parents[3] / "configs"

KNOWS, NOT = SimpleNamespace(hparams={"two_player": True}), SimpleNamespace(hparams={})


@pytest.mark.parametrize(
    ("agent", "arguments", "said"),
    [(NOT, {}, "played by both sides"), (KNOWS, {"opponent": "random"}, "has an opponent of its own")],
)
def test_who_counts_rewards_of_the_wrong_player_is_refused_and_the_advice_works(
    agent: object, arguments: dict[str, str], said: str
) -> None:
    for id in ("reverie/TicTacToe-v0", "reverie/ConnectFour-v0"):
        with pytest.raises(ValueError, match=said) as caught:
            check_sides(EnvironmentSpec(id, arguments), agent)
        assert len(str(caught.value)) < 400
        advised = re.findall(r"environment_arguments '({.*?})'", str(caught.value))
        check_sides(EnvironmentSpec(id, yaml.safe_load(advised[0])), agent)


def test_an_agent_that_could_know_of_turns_is_told_how() -> None:
    agent = SimpleNamespace(hparams={"two_player": False})
    with pytest.raises(ValueError, match=r"opponent: random}'; or tell it .*: --model.two_player true$"):
        check_sides(EnvironmentSpec("reverie/TicTacToe-v0"), agent)


def test_other_environments_take_any_agent() -> None:
    for agent in (KNOWS, NOT):
        check_sides(EnvironmentSpec("CartPole-v1"), agent)


def test_an_evaluation_by_both_sides_is_warned_of_and_the_advice_works() -> None:
    spec = EnvironmentSpec("reverie/TicTacToe-v0")
    agent = MuZero(spec.spaces(), two_player=True)
    with pytest.warns(UserWarning, match="played by both sides") as told:
        assert choose_environment(None, agent, Changes(spec.id)).spec == spec
    (message,) = [str(w.message) for w in told]
    option, value = re.findall(r"(--evaluation\.environment_arguments) '({.*?})'", message)[0]
    assert len(message) < 400
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_environment(None, agent, Changes(spec.id, yaml.safe_load(value))).spec != spec
        warn_of_both_sides(EnvironmentSpec("CartPole-v1").make(), "CartPole-v1", option)


@pytest.mark.parametrize("config", [path.stem for path in CONFIGS.glob("*/*.yaml") if "two_player" in path.read_text()])
def test_presets_of_games_are_evaluated_against_an_opponent(config: str) -> None:
    preset = yaml.safe_load((CONFIGS / f"muzero/{config}.yaml").read_text())
    data = EnvironmentSpec(preset["data"]["init_args"]["environment"])
    check_sides(data, SimpleNamespace(hparams=preset["model"]["init_args"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        played = Changes(None, preset["evaluation"]["environment_arguments"]).applied(data)
        assert played is not None
        warn_of_both_sides(played.make(), played.id, "")
