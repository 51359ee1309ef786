"""Agents in games of two players: those that know of turns, and those that do not."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import yaml

from datamodules.envs.make import EnvironmentSpec
from datamodules.played.sides import check_sides

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


def test_other_environments_take_any_agent() -> None:
    for agent in (KNOWS, NOT):
        check_sides(EnvironmentSpec("CartPole-v1"), agent)
