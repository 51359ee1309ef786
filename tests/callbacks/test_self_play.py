"""Self-play: copies are what the agent was, ratings follow results, runs repeat, resume and share over processes."""

from __future__ import annotations

import csv
import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_files import save
from command_line import mistake
from equal import assert_equal
from fit_command import on_two_ranks
from ranks import run_on_ranks
from runs_in_parts import whole_and_resumed

from callbacks.frozen_players import FrozenPlayers
from callbacks.self_play import gain_of, round_robin
from commands.evaluate import evaluate
from datamodules.envs.flag_rules import ACTIONS
from datamodules.envs.make import EnvironmentSpec
from datamodules.played.other_side import play_matches
from modules.algorithms.ppo import PPO
from modules.functional.ratings import win_probability
from modules.networks.encoders import Encoder

FLAG = EnvironmentSpec("reverie/CaptureFlag-v0", {"steps": 20})
COMMON = (
    "--model.units", "8", "--data.environments", "8",
    "--data.batch_size", "8", "--data.sequence_length", "11", "--data.updates_per_step", "0.0125",
    "--data.steps_per_epoch", "240", "--data.prefill", "88", "--data.capacity", "800", "--data.environment_arguments",
    "{steps: 6}", "--evaluation.episodes", "2", "--evaluation.final_episodes", "2",
)  # fmt: skip
SMALL = ("--model.passes", "1", "--model.minibatches", "2", *COMMON)
CALLBACK = "{class_path: callbacks.self_play.SelfPlay}"
DUEL = ("--config", "ppo/cartpole", "--data.environment", "duels:Duel-v0", "--data.vectorization",
        "vector_entry_point", "--trainer.logger", "false", "--trainer.callbacks+", CALLBACK)  # fmt: skip
CONFIGS = {
    "ppo": (*DUEL, "--model.passes", "1", "--model.minibatches", "2"),
    "a2c": ("--config", "a2c/catch", "--data.environment", "reverie/CaptureFlag-v0", "--data.vectorization",
            "vector_entry_point", "--trainer.callbacks+", CALLBACK),
}  # fmt: skip
FEW = ("--trainer.callbacks.every_n_updates", "2", "--trainer.callbacks.final_matches", "2")


class Fixed:
    """Players who always take the action of their number."""

    def draw(self, count: int, generator: np.random.Generator) -> np.ndarray:
        return generator.integers(5, size=count)

    def act(self, observation: np.ndarray | Mapping[str, np.ndarray], who: np.ndarray) -> np.ndarray:
        return who


def agent() -> PPO:
    torch.manual_seed(0)
    return PPO(FLAG.spaces(), encoder=functools.partial(Encoder, image_network="mlp", image_middle=0.0), units=8)


def players(width: float = 1 / 6, k: float = 4.0, ratings: tuple[float, ...] = ()) -> FrozenPlayers:
    found = FrozenPlayers(agent(), width, k)
    for _ in ratings:
        found.add()
    found.ratings = torch.tensor(ratings, dtype=torch.float64)
    return found


# ------------------------------------------------------------------------------------------------------------- copies
def test_copies_stay_what_the_agent_was() -> None:
    frozen = FrozenPlayers(agent(), 1 / 6, 4.0)
    frozen.add()
    with torch.no_grad():
        for parameter in frozen.agent.actor.parameters():  # a policy that always takes the last action
            parameter.zero_()
        frozen.agent.actor.output.bias[-1] = 50.0
    frozen.add()
    seen = {key: np.repeat(space.sample()[None], 400, 0) for key, space in FLAG.spaces().observations_by_key().items()}
    who = np.arange(400) % 2
    state = torch.get_rng_state()
    action = frozen.act(seen, who)
    assert (action[who == 1] == len(ACTIONS) - 1).all()
    assert len(set(action[who == 0].tolist())) == len(ACTIONS)
    assert set(frozen.weights[0]) == set(frozen.agent.state_dict())
    # Those that are made anew after a resume act as these, from the same random state.
    fresh = FrozenPlayers(agent(), 1 / 6, 4.0)
    fresh.load_state_dict(frozen.state_dict())
    torch.set_rng_state(state)
    np.testing.assert_array_equal(fresh.act(seen, who), action)


def test_opponents_are_drawn_by_how_even_the_match_is() -> None:
    frozen = players(width=0.1, ratings=(-400.0, -100.0, 0.0))
    drawn = np.bincount(frozen.draw(20_000, np.random.default_rng(0)), minlength=3) / 20_000
    chance = win_probability(-frozen.ratings).numpy()
    weights = np.exp(-0.5 * ((chance - 0.5) / 0.1) ** 2)
    np.testing.assert_allclose(drawn, weights / weights.sum(), atol=0.015)


RESULTS = np.array([[0, 1], [0, 1], [1, 0], [0, -1]])


def test_ratings_follow_results() -> None:
    frozen = players(k=10.0, ratings=(0.0, 0.0, -50.0))
    assert frozen.rate(RESULTS) == {"matches": 4.0, "points": 2.5 / 4, "draws": 0.25, "met": 2.0}
    assert frozen.ratings.tolist() == [-5.0, 0.0, -50.0]
    assert float(frozen.rating) == 5.0
    frozen.add()
    assert frozen.ratings.tolist() == [-5.0, 0.0, -50.0, 5.0]
    assert frozen.rate(RESULTS[:0]) == {"matches": 0.0, "points": 0.0, "draws": 0.0, "met": 0.0}
    assert float(frozen.rating) == 5.0


# ---------------------------------------------------------------------------------------------------------- matches
def test_a_match_is_between_those_who_are_named() -> None:
    spec = EnvironmentSpec(FLAG.id, {"steps": 13})
    # Straight ahead along row 2 or 4 is a wall; nobody who takes one action only ever meets a flag: all are drawn.
    first, second = np.repeat(np.arange(5), 5), np.tile(np.arange(5), 5)
    assert play_matches(spec, Fixed(), first, second, 0).tolist() == [0] * 25
    planned = EnvironmentSpec(FLAG.id, {"opponent": "planned"})
    assert play_matches(planned, Fixed(), np.zeros(6, np.int64), None, 0).tolist() == [-1] * 6


def test_a_round_robin_rates_everyone() -> None:
    frozen = players(ratings=(0.0, 0.0, 0.0))
    frozen.updates = [0, 2, 4]
    rows = round_robin(EnvironmentSpec(FLAG.id, {"steps": 60}), frozen, 6, seed=0)
    assert [row["player"] for row in rows] == ["0 updates", "2 updates", "4 updates", "random", "planned"]
    assert rows[0]["rating"] == 0.0
    assert rows[4]["rating"] > max(row["rating"] for row in rows[:4]) + 200  # it beats those who do not know the game
    assert rows[1]["points against planned"] < 0.1
    assert gain_of(rows) == rows[2]["rating"] - rows[1]["rating"]


# -------------------------------------------------------------------------------------------------------------- runs
def copies_of(folder: Path) -> dict[str, Any]:
    (run,) = folder.iterdir()
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    (state,) = [value for name, value in checkpoint["callbacks"].items() if name.startswith("SelfPlay")]
    found: dict[str, Any] = state["players"]
    return found


@pytest.mark.long
@pytest.mark.parametrize("algorithm", ["ppo", pytest.param("a2c", marks=pytest.mark.slow)])
def test_a_resumed_run_is_the_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    monkeypatch.chdir(tmp_path)
    fit = ["fit", *CONFIGS[algorithm], *COMMON, *FEW, "--trainer.callbacks.every_n_updates", "4"]
    agents = whole_and_resumed(fit, tmp_path)
    assert [found.updates for found in agents] == [9, 9]
    whole, parts = copies_of(tmp_path / "whole"), copies_of(tmp_path / "parts")
    assert whole["updates"] == parts["updates"] == [0, 4, 8]
    assert torch.equal(whole["ratings"], parts["ratings"])
    assert torch.equal(whole["rating"], parts["rating"])
    # A flag is never captured within six steps; a duel is won and lost.
    assert bool(whole["ratings"].any()) == (algorithm == "ppo")
    for one, other in zip(whole["weights"], parts["weights"], strict=True):
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert len({float(found["actor.output.bias"][0]) for found in whole["weights"]}) == 3
    (run,) = (tmp_path / "whole").iterdir()
    with (run / "ratings.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["updates"]) for row in rows if row["updates"] != "-1"] == [0, 4, 8, 9]
    assert (run / "ratings.png").stat().st_size > 10_000


def rated(rank: int) -> tuple[dict[str, float], Any]:
    frozen = players(k=10.0, ratings=(0.0, 0.0, -50.0))
    return frozen.rate(RESULTS[3 * rank : 3 + rank]), frozen.state_dict()


def test_ratings_follow_the_results_of_all_ranks(tmp_path: Path) -> None:
    """Of which one has three of four matches, and the other met another copy."""
    whole = players(k=10.0, ratings=(0.0, 0.0, -50.0))
    expected = whole.rate(RESULTS), whole.state_dict()
    for found in run_on_ranks(2, tmp_path, rated):
        assert_equal(found, expected, "ratings")


@pytest.mark.long
def test_two_ranks_play_and_hold_equal_weights_and_ratings(tmp_path: Path) -> None:
    ranks = on_two_ranks(
        tmp_path, *DUEL, *SMALL, *FEW, "--data.steps_per_epoch", "1600", "--data.updates_per_step", "0.00625",
        "--evaluation.every_n_epochs", "5", "--data.prefill", "176",
    )  # fmt: skip
    one, two = (rank["callbacks"]["SelfPlay"]["players"] for rank in ranks)
    assert_equal(one, two, "players")
    assert one["rating"] != 0.0
    assert len(set(one["ratings"].tolist())) > 5
    # Each played matches of its own.
    assert not torch.equal(ranks[0]["batches"][3]["reward"], ranks[1]["batches"][3]["reward"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--data.vectorization", "sync"), "set it to vector_entry_point"),
        (("--data.collection", "background"), "set data.collection to inline"),
        (("--data.environment", "CartPole-v1", "--data.environment_arguments", "{}"), "CartPole-v1 has no other side"),
        (("--trainer.callbacks.width", "0"), "width"),
    ],
)
def test_what_cannot_be_played_is_refused(
    arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    told = mistake(["fit", "--config", "ppo/capture_flag", *SMALL, *arguments], capsys)
    assert said in told
    assert not list(tmp_path.rglob("*.ckpt"))


def test_an_agent_with_a_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    flag = ("--data.environment", "reverie/CaptureFlag-v0", "--data.vectorization", "vector_entry_point")
    told = mistake(["fit", "--config", "r2d2/tmaze", *flag, "--data.environment_arguments", "{steps: 6}",
                    "--trainer.callbacks+", CALLBACK], capsys)  # fmt: skip
    assert "remembers" in told


def test_an_evaluation_tells_wins_draws_and_losses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(agent().eval(), tmp_path / "a.ckpt")
    evaluate(str(tmp_path / "a.ckpt"), FLAG.id, 3, environment_arguments={"steps": 60, "opponent": "planned"},
             output=str(tmp_path / "found.json"))  # fmt: skip
    (member,) = json.loads((tmp_path / "found.json").read_text())["members"]
    assert member["numbers"] == {"success_rate": 0.0, "draw": 0.0, "loss": 1.0}
    assert member["episodes"] == [{"success": 0.0, "draw": 0.0, "loss": 1.0}] * 3
    header, row = [line for line in capsys.readouterr().out.splitlines() if "return" in line or "100%" in line][:2]
    columns, cells = ([cell.strip() for cell in re.split("[┃│]", line)] for line in (header, row))
    told = dict(zip(columns, cells, strict=True))
    assert [told[name] for name in ("success rate", "draw", "loss")] == ["0%", "0%", "100%"]
    assert "normalised" not in told  # there is no reference, and the table fits 80 columns
