"""`evaluate --lookahead.model`: pairs of returns, units of rewards, the models that it takes, and its refusals."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from checkpoint_files import DATASET, save, setting, write_checkpoint
from command_line import mistake
from dreamer_agents import make_agent as make_dreamer
from rich.console import Console

from callbacks.evaluation.rollout import Rollouts
from commands.evaluate import evaluate
from commands.lookahead import Pair, RewardUnits, load_dynamics, print_pairs, reward_units
from datamodules.envs import simulator
from datamodules.envs.snapshot import SnapshotError
from modules.algorithms.dynamics_ensemble import DynamicsEnsemble
from modules.algorithms.lookahead import Lookahead

SHORT = {"max_episode_steps": 30}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lookahead")
    agent = write_checkpoint(folder / "policy.ckpt", seeds=2)
    save(DynamicsEnsemble(agent.spaces, seeds=2, hidden=[8]), folder / "dynamics.ckpt")
    return folder


def test_it_plays_the_same_episodes_with_and_without_lookahead(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "o.json"
    settings = Lookahead(str(files / "dynamics.ckpt"), candidates=8, guard=0.0)
    evaluate(
        str(files / "policy.ckpt"), episodes=2, seed=3, member="beta=4/seed=1", output=str(output), lookahead=settings
    )
    content = json.loads(output.read_text())
    assert content["lookahead"]["candidates"] == 8
    base, ahead = content["members"]
    assert [base["member"], ahead["member"]] == ["beta=4/seed=1", "beta=4/seed=1+lookahead"]
    gain = np.subtract(ahead["returns"], base["returns"]).mean()
    shown = capsys.readouterr().out
    assert "with lookahead, on the same episodes" in shown
    assert f"{gain:+.1f}" in shown
    evaluate(
        str(files / "policy.ckpt"), episodes=1, seed=3, member="beta=4/seed=1", output=str(output), lookahead=settings
    )
    again = json.loads(output.read_text())["members"][1]
    assert again["returns"] == pytest.approx(ahead["returns"][:1], rel=1e-5)  # whatever is played beside it


def test_a_tree_is_grown_in_an_ensemble(files: Path, tmp_path: Path) -> None:
    output = tmp_path / "o.json"
    settings = Lookahead(str(files / "dynamics.ckpt"), mode="tree", candidates=10, slots=4, guard=0.0)
    evaluate(
        str(files / "policy.ckpt"), episodes=1, member="beta=4/seed=0", output=str(output), lookahead=settings,
        environment_arguments=SHORT,
    )  # fmt: skip
    content = json.loads(output.read_text())
    base, ahead = content["members"]
    assert (content["lookahead"]["mode"], content["lookahead"]["slots"]) == ("tree", 4)
    assert ahead["returns"] != base["returns"]


def test_a_guard_that_nothing_clears_leaves_the_policy_as_it_is(files: Path, tmp_path: Path) -> None:
    output = tmp_path / "o.json"
    settings = Lookahead(str(files / "dynamics.ckpt"), candidates=8, guard=1e6)
    evaluate(
        str(files / "policy.ckpt"), episodes=1, member="beta=4/seed=0", output=str(output), lookahead=settings,
        environment_arguments=SHORT,
    )  # fmt: skip
    base, ahead = json.loads(output.read_text())["members"]
    assert ahead["returns"] == pytest.approx(base["returns"], rel=1e-5)


def test_the_simulator_is_made_of_the_environments_that_are_played(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, closed = tmp_path / "o.json", []
    monkeypatch.setattr(simulator.Simulator, "close", lambda self: closed.append(len(self._copies) >= 3))
    settings = Lookahead("simulator", candidates=3, rollout=10)
    evaluate(
        str(files / "policy.ckpt"), episodes=1, member="beta=4/seed=0", output=str(output), lookahead=settings,
        environment_arguments=SHORT,
    )  # fmt: skip
    base, ahead = json.loads(output.read_text())["members"]
    assert ahead["returns"][0] != base["returns"][0]
    assert closed == [True]


def test_an_environment_that_cannot_be_copied_is_found_before_anything_is_played(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def locked(env: gym.Env) -> None:
        raise SnapshotError("Pendulum.lock is a lock")

    monkeypatch.setattr(simulator, "capture", locked)
    argv = ["evaluate", "--ckpt_path", str(files / "policy.ckpt"), "--episodes", "100000"]
    assert "no simulator: Pendulum.lock is a lock" in mistake([*argv, "--lookahead.model", "simulator"], capsys)


@pytest.mark.parametrize("width", [80])
def test_names_of_members_are_readable_in_a_narrow_terminal(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    ahead = Rollouts(np.array([[-1000.5, -900.25]]), np.zeros((1, 2)), [[]])
    pair = Pair(0, np.array([-1200.0, -1100.0]), ahead, 0.5)
    print_pairs(Console(width=width, markup=False), [pair], ["beta=0.0625/seed=1000"])
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert "+199.6" in shown


def test_a_world_model_is_looked_ahead_in_by_its_own_policy(tmp_path: Path) -> None:
    agent = make_dreamer(action=gym.spaces.Box(-2.0, 2.0, (1,), np.float32))
    save(agent, tmp_path / "dreamer.ckpt")
    checkpoint = torch.load(tmp_path / "dreamer.ckpt", weights_only=True)
    torch.save({**checkpoint, "dataset": DATASET}, tmp_path / "dreamer.ckpt")
    output = tmp_path / "o.json"
    evaluate(
        str(tmp_path / "dreamer.ckpt"), episodes=1, output=str(output), lookahead=Lookahead("own", candidates=4),
        environment_arguments=SHORT,
    )  # fmt: skip
    _, ahead = json.loads(output.read_text())["members"]
    assert ahead["lengths"] == [30]
    evaluate(
        str(tmp_path / "dreamer.ckpt"), episodes=1, output=str(output), environment_arguments=SHORT,
        lookahead=Lookahead("own", mode="tree", candidates=8, slots=4),
    )  # fmt: skip
    assert json.loads(output.read_text())["members"][1]["lengths"] == [30]
    # Candidates that are all the base policy's change nothing, as what is imagined draws from other streams.
    evaluate(
        str(tmp_path / "dreamer.ckpt"), episodes=2, output=str(output), environment_arguments=SHORT,
        lookahead=Lookahead("own", candidates=3, noise=0.0, depth=2, refinements=1),
    )  # fmt: skip
    base, ahead = json.loads(output.read_text())["members"]
    assert ahead["returns"] == pytest.approx(base["returns"], rel=1e-5)


def test_rewards_go_from_the_model_s_units_to_those_of_the_value() -> None:
    raw = torch.tensor([-3.0, 0.0, 5.0])
    model, value = RewardUnits(2.0, 1.0), RewardUnits(0.1, -4.0)
    torch.testing.assert_close(model.to(value)(raw * 2.0 + 1.0), raw * 0.1 - 4.0)
    assert reward_units({}, "a.ckpt") == RewardUnits(1.0, 0.0)
    assert reward_units({"datamodule_hyper_parameters": {"reward_scale": 0.1, "reward_shift": 2}}, "") == (0.1, 2.0)
    with pytest.raises(ValueError, match=r"checkpoint a\.ckpt is damaged: reward_scale of its data is much; use"):
        reward_units({"datamodule_hyper_parameters": {"reward_scale": "much"}}, "a.ckpt")


def test_models_that_do_not_fit_are_refused_in_one_line(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [
        "evaluate",
        "--ckpt_path",
        str(files / "policy.ckpt"),
        "--episodes",
        "100000",
        "--lookahead.model",
    ]  # found before they are played
    assert "give a DynamicsEnsemble's, simulator or own" in mistake([*argv, str(files / "policy.ckpt")], capsys)
    assert "with no world model" in mistake([*argv, "own"], capsys)
    said = mistake([*argv, "missing.ckpt"], capsys)
    assert "--lookahead.model: no checkpoint file at missing.ckpt; give one of a DynamicsEnsemble, simulator" in said
    assert "'sample', 'tree'" in mistake([*argv, "simulator", "--lookahead.mode", "beam"], capsys)
    assert "use sample" in mistake([*argv, "simulator", "--lookahead.mode", "enumerate"], capsys)
    damaged = torch.load(files / "dynamics.ckpt", weights_only=True)
    setting("agent", "alive", to=[True, False])(damaged)
    torch.save(damaged, tmp_path / "half.ckpt")
    with pytest.raises(ValueError, match="networks that diverged"):
        load_dynamics(str(tmp_path / "half.ckpt"))
    # Settings without a model would be played without a word.
    alone = argv[:-1]
    for unused in (["--lookahead.mode", "tree"], ["--lookahead.depth", "3"]):
        told = f"{unused[0]} would be ignored: name the model that is looked ahead in by --lookahead.model"
        assert told in mistake([*alone, *unused], capsys)
