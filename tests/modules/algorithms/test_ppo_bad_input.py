"""PPO: arguments, replays and batches that are refused, each with what helps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from a2c_agents import windows
from command_line import mistake
from ppo_agents import SETTINGS, make

from modules.contracts import ReplayOffer
from modules.networks.actors import TanhNormalActor


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"passes": 0}, "passes must be at least 1"),
        ({"minibatches": 0}, "minibatches must be at least 1"),
        ({"clip": 0.0}, "clip must be positive"),
        ({"value_clip": -1.0}, "value_clip must be positive"),
        ({"target_kl": math.inf}, "target_kl must be positive and finite"),
        ({"entropy": -0.1}, "entropy must lie in"),
        ({"critic_scale": -0.1}, "critic_scale must lie in"),
        ({"discount": 1.1}, "discount must lie in"),
        ({"lambda_": -0.1}, "lambda_ must lie in"),
        ({"adam_eps": -1.0}, "adam_eps must lie in"),
        ({"clip_norm": 0.0}, "clip_norm must lie in"),
        ({"units": 0}, "units must lie in"),
        ({"lr": "falling"}, "is no schedule"),
        ({"compile": "update"}, "compile must be one of off, step"),
        ({"compile": "step", "lr": "linear(0.01, 0, 9)"}, "set compile to off, or one number"),
        ({**SETTINGS["two-hot"], "value_clip": 0.2}, "value_clip: predictions of the codec TwoHot are no values"),
        ({"task_key": "task"}, "task_key would be ignored"),
        ({"continuous": TanhNormalActor}, "continuous would be ignored: .* leave it out"),
    ],
)
def test_bad_arguments_are_refused_by_name(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings)


@pytest.mark.parametrize(
    ("offer", "message"),
    [
        (ReplayOffer(9), "present policy just did: set data.replay to .*LatestWindows"),
        (ReplayOffer(9, prioritized=True), "learns from windows"),
        (ReplayOffer(1), "sequence_length must be at least 2"),
        (
            ReplayOffer(9, fresh=True, steps=16, between=8.0),
            "a batch of all processes has 16 steps: set it to 0.0625, not 0.125",
        ),
        (ReplayOffer(2, fresh=True, steps=1, between=1.0), "minibatches: 2 are more than the 1 steps of a batch"),
    ],
)
def test_a_replay_that_does_not_hand_out_every_step_once_is_refused(offer: ReplayOffer, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make().meet(offer)
    make().meet(ReplayOffer(9, fresh=True, steps=16, between=16.0))


def test_a_batch_with_fewer_steps_than_minibatches_is_refused() -> None:
    agent = make(minibatches=23)
    with pytest.raises(ValueError, match="minibatches: 23 are more than the 22 steps of a batch"):
        agent.update(windows(agent))


def test_a_policy_that_the_actions_do_not_have_is_a_mistake_of_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    told = mistake(["fit", "--config", "ppo/cartpole", "--model.continuous", "TanhNormalActor"], capsys)
    assert "continuous would be ignored" in told
    assert not list(tmp_path.rglob("*.ckpt"))
