"""Rewards of events in place of the environment's: what A2C and PPO learn from, and what is refused."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import a2c_agents
import gymnasium as gym
import numpy as np
import ppo_agents
import pytest
import torch
from a2c_agents import VECTOR, windows

import reverie
from modules.agent.event_rewards import EventRewards
from modules.agent.on_policy import OnPolicy

TOLD = gym.spaces.Dict({"place": VECTOR, "events": gym.spaces.Box(0, 1, (2,), np.int8)})
WEIGHTS = (0.5, -3.0)


@pytest.mark.parametrize("make", [a2c_agents.make, ppo_agents.make], ids=["a2c", "ppo"])
@pytest.mark.parametrize("weights", [WEIGHTS, (0.0, 2.0)])
def test_an_update_is_that_of_an_environment_with_these_rewards(
    make: Callable[..., OnPolicy], weights: tuple[float, ...]
) -> None:
    internal, plain = make(TOLD, internal=EventRewards(weights)), make(TOLD)
    batch = windows(plain)
    told = batch["observation", "events"].float()
    same = copy.deepcopy(batch)
    same["reward"] = weights[0] * told[..., 0] + weights[1] * told[..., 1]
    for agent, rows in ((internal, batch), (plain, same)):
        torch.manual_seed(3)
        agent.update(rows)
    changed = False
    start = make(TOLD).state_dict()
    for name, value in internal.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name
        changed |= not torch.equal(value, start[name])
    assert changed


def test_weights_are_followed_by_a_run_that_goes_on() -> None:
    agents = [a2c_agents.make(TOLD, internal=EventRewards(weights)) for weights in (WEIGHTS, (0.5, 3.0))]
    batch = windows(agents[0])
    first, second = (agent.update(batch).metrics["target"] for agent in agents)
    assert first != second


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"weights": (1.0, 2.0, 3.0)},
            r"internal\.key 'events' must be an observation with one number for each of",
        ),
        (
            {"weights": WEIGHTS, "key": "event"},
            r"internal\.key 'event' .* got None; the observations are",
        ),
        ({"weights": (1.0, float("nan"))}, r"internal\.weights\.1"),
        ({"weights": (1.0, "two")}, r"internal\.weights"),
    ],
)
def test_what_is_no_reward_of_these_events_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        a2c_agents.make(TOLD, internal=EventRewards(**arguments))


def test_a_scale_of_rewards_that_nobody_learns_from_is_refused() -> None:
    rewards = EventRewards(WEIGHTS)
    rewards.check_data(SimpleNamespace(hparams={"reward_scale": 1.0}))
    rewards.check_data(SimpleNamespace())
    message = "data.reward_scale 0.5 would be ignored: with model.internal"
    with pytest.raises(ValueError, match=re.escape(message)):
        rewards.check_data(SimpleNamespace(hparams={"reward_scale": 0.5}))


def test_a_run_with_such_a_scale_ends_before_it_begins(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        reverie.main(["fit", "--config", "ppo/key_door", "--data.reward_scale", "2", "--trainer.logger", "false"])
    assert "data.reward_scale 2 would be ignored" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.ckpt"))
