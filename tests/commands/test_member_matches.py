"""Members of a population play each other: ratings with known answers, and who cannot play."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_files import save
from duels import ACTIONS
from r2d2_agents import make_agent

from commands.member_matches import Agents, Matches, check_player
from datamodules.envs.make import EnvironmentSpec
from modules.algorithms.ppo import PPO
from modules.functional.ratings import fit_ratings, sides_of

DUEL = EnvironmentSpec("duels:Duel-v0")
TRUSTED = ("duels",)


def always(action: int | None, path: Path) -> Path:
    """A checkpoint of a policy that takes one action, or all alike."""
    agent = PPO(DUEL.spaces(), units=4)
    with torch.no_grad():
        for parameter in agent.actor.parameters():
            parameter.zero_()
        if action is not None:
            agent.actor.output.bias[action] = 50.0
    save(agent, path)
    content = torch.load(path, weights_only=True)
    torch.save(content | {"environment": DUEL.to_plain()}, path)
    return path


def test_ratings_are_those_of_the_table_of_matches(tmp_path: Path) -> None:
    """The larger action wins every match, and equals draw."""
    files = [always(action, tmp_path / f"{n}.ckpt") for n, action in enumerate((2, 0, 1, 1))]
    found = Matches(6, TRUSTED).rate(files, [True] * 4, seed=0)
    pairs = torch.tensor([[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]])
    points = torch.tensor([6.0, 6.0, 6.0, 0.0, 0.0, 3.0])
    expected = fit_ratings(sides_of(pairs[:, :1], pairs[:, 1:], 4, mean=True), points, torch.full((6,), 6.0), 1000.0)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-9)
    assert found[0] > 400
    assert found[1] == pytest.approx(-found[0])
    assert abs(found[2]) < 1e-9


def test_who_has_failed_plays_nobody(tmp_path: Path) -> None:
    files = [always(2, tmp_path / "a.ckpt"), tmp_path / "missing.ckpt", always(0, tmp_path / "b.ckpt")]
    found = Matches(4, TRUSTED).rate(files, [True, False, True], seed=0)
    assert found[1] == -math.inf
    assert found[0] == -found[2] > 0
    assert Matches(4).rate(files, [True, False, False], seed=0) == [0.0, -math.inf, -math.inf]


def test_matches_follow_from_their_seed(tmp_path: Path) -> None:
    files = [always(None, tmp_path / f"{n}.ckpt") for n in range(2)]
    found = [Matches(30, TRUSTED).rate(files, [True, True], seed=seed)[0] for seed in (3, 3, 4)]
    assert found[0] == found[1] != found[2]


def test_each_acts_for_its_rows(tmp_path: Path) -> None:
    agents = []
    for action in range(ACTIONS):
        agents.append(PPO(DUEL.spaces(), units=4))
        with torch.no_grad():
            agents[-1].actor.output.bias[action] = 50.0
    who = np.array([2, 0, 1, 1, 2])
    np.testing.assert_array_equal(Agents(agents).act(np.zeros((5, 1), np.float32), who), who)


def test_who_remembers_cannot_play(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"exploit.matches: R2D2 remembers what it saw.*such as PPO or A2C"):
        check_player(make_agent(), tmp_path / "x.ckpt")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"environment": "CartPole-v1"}, "CartPole-v1 has no other side that others could play.*compare returns"),
        ({"source": "x.npz"}, "members play each other in data.environment, and these data have none"),
        (None, "members play each other in data.environment, and these data have none"),
    ],
)
def test_data_without_another_side_are_refused(data: dict[str, Any] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Matches.of({"data": {"init_args": data}}, 5)


def test_files_may_name_what_the_config_names(tmp_path: Path) -> None:
    """And nothing else."""
    played = {"environment": DUEL.id, "environment_arguments": None, "wrappers": [{"class_path": "mine.Wrapper"}]}
    config = {"model": {"class_path": "mine.Agent"}, "data": {"class_path": "Online", "init_args": played}}
    assert Matches.of(config, 5) == Matches(5, ("mine.Agent", "Online", "mine.Wrapper", "duels"))
    files = [always(2, tmp_path / f"{n}.ckpt") for n in range(2)]
    with pytest.raises(ValueError, match="names the environment duels:Duel-v0; nothing was imported"):
        Matches(5, ("mine",)).rate(files, [True, True], seed=0)
