"""The environment that a fit evaluates in is what its checkpoint is played, tested and described in."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer

import reverie
from callbacks.evaluation.evaluation import Evaluation
from commands.evaluate import evaluate
from commands.export import export
from datamodules.offline import OfflineDataModule
from modules.agent.warm_start import WarmStart
from modules.algorithms.atac import ATAC
from modules.run import announced_environment

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

RESCALED = "[{class_path: gymnasium.wrappers.RescaleAction, init_args: {min_action: -1.0, max_action: 1.0}}]"
OFFSET = 1_000_000  # where the final evaluation's episodes start


class Shrunk(gym.RewardWrapper):
    """A wrapper of a user's own module."""

    def reward(self, reward: Any) -> float:
        return 0.001 * float(reward)


def pendulum(path: Path, **meta: Any) -> str:
    """Random data of six short episodes with actions in [-1, 1]."""
    rng = np.random.default_rng(0)
    arrays = {
        "observations": rng.uniform(-1, 1, (60, 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (60, 1)).astype(np.float32),
        "rewards": rng.normal(size=60).astype(np.float32),
        "terminals": np.zeros(60, bool),
        "timeouts": np.arange(60) % 10 == 9,
        "final_observations": np.zeros((6, 3), np.float32),
    }
    np.savez(path, meta=json.dumps({"name": path.stem, **meta}), **arrays)
    return str(path)


def trainer_for(tmp_path: Path, evaluation: Evaluation) -> Trainer:
    return Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=str(tmp_path), callbacks=[evaluation],
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, OfflineDataModule, ATAC, Evaluation]:
    """A fit that evaluates with a gravity, a time limit and a wrapper of its own."""
    tmp_path = tmp_path_factory.mktemp("run")
    data = OfflineDataModule(
        pendulum(tmp_path / "a.npz", env_id="Pendulum-v1"), batch_size=16, updates_per_epoch=4,
        cache_dir=str(tmp_path / "cache"), environment_arguments={"max_episode_steps": 20}, wrappers=[Shrunk],
    )  # fmt: skip
    agent = ATAC(data.spaces, hidden=[8], warm_start=WarmStart(2))
    evaluation = Evaluation(environment_arguments={"g": 3.0}, episodes=1, final_episodes=3)
    trainer = trainer_for(tmp_path, evaluation)
    trainer.fit(agent, datamodule=data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    return tmp_path, data, agent, evaluation


def test_the_checkpoint_is_tested_and_evaluated_where_the_fit_evaluated(run, capsys) -> None:
    tmp_path, data, agent, evaluation = run
    plain = torch.load(tmp_path / "last.ckpt", weights_only=True)["environment"]
    assert plain["arguments"] == {"max_episode_steps": 20, "g": 3.0}
    assert announced_environment(agent.trainer).to_plain() == plain  # before the data's, for MLflow's page too
    last = next(s for s in evaluation.final if s.kind == "last")

    again = Evaluation(final_episodes=3)  # asks for nothing
    (found,) = trainer_for(tmp_path, again).test(agent, data, str(tmp_path / "last.ckpt"), verbose=False)
    assert found["test/return"] == pytest.approx(last.mean)

    with pytest.raises(SystemExit):  # a class of a user's own module, in a file
        reverie.main(["evaluate", "--ckpt_path", str(tmp_path / "last.ckpt"), "--episodes", "3"])
    assert f"add --trust {Shrunk.__module__}; or give all wrappers of the environment with --wrappers" in (
        capsys.readouterr().err.replace("\n", " ")
    )
    options = ["--seed", str(OFFSET), "--output", str(tmp_path / "o.json"), "--trust", Shrunk.__module__]
    reverie.main(["evaluate", "--ckpt_path", str(tmp_path / "last.ckpt"), "--episodes", "3", *options])
    played = json.loads((tmp_path / "o.json").read_text())
    assert played["members"][0]["mean"] == pytest.approx(last.mean)
    assert played["members"][0]["lengths"] == [20, 20, 20]
    assert played["environment_arguments"] == plain["arguments"]
    assert "played in: Pendulum-v1 (max_episode_steps=20, g=3.0) in Shrunk" in capsys.readouterr().out


def test_evaluate_takes_another_environment(run, tmp_path: Path, capsys) -> None:
    path = str(run[0] / "last.ckpt")
    options = ["--wrappers", "[]", "--environment_arguments.max_episode_steps", "7"]
    reverie.main(["evaluate", "--ckpt_path", path, "--episodes", "2", "--output", str(tmp_path / "o.csv"), *options])
    rows = list(csv.DictReader((tmp_path / "o.csv").open()))
    assert [row["length"] for row in rows] == ["7", "7"]
    out = capsys.readouterr().out
    assert "played in: Pendulum-v1 (max_episode_steps=7, g=3.0)" in out
    assert "not normalised: measured for the plain Pendulum-v1" in out
    evaluate(path, episodes=1, wrappers=[], environment_arguments={"g": 10.0, "max_episode_steps": 200})
    assert "100 is -149.6 (measured" in capsys.readouterr().out


def test_export_describes_the_environment(run, tmp_path: Path, monkeypatch) -> None:
    from modules.trust.names import trusting

    with trusting([Shrunk.__module__]):
        export(str(run[0] / "last.ckpt"), str(tmp_path / "policy"))
    described = json.loads((tmp_path / "policy" / "policy.json").read_text())["environment"]
    assert described["arguments"] == {"max_episode_steps": 20, "g": 3.0}
    assert [wrapper["class_path"] for wrapper in described["wrappers"]] == [f"{Shrunk.__module__}.Shrunk"]


def test_references_are_not_kept_for_another_environment(tmp_path: Path) -> None:
    source = pendulum(tmp_path / "a.npz", env_id="Pendulum-v1", ref_random=-10.0, ref_expert=0.0)
    data = OfflineDataModule(source, cache_dir=str(tmp_path / "cache"), environment_arguments={"max_episode_steps": 5})
    agent = ATAC(data.spaces, hidden=[8])
    same, other = Evaluation(), Evaluation(environment_arguments={"g": 3.0})
    same.prepare(data, agent)
    assert same.info is not None
    assert same.info.yardstick == "0 is -10.0, 100 is 0.0 (stored in the dataset)"
    other.prepare(data, agent)
    assert other.info is not None
    assert other.info.yardstick == "none for Pendulum-v1 (max_episode_steps=5, g=3.0)"
    by_hand = OfflineDataModule(source, cache_dir=str(tmp_path / "cache"), reference_min=-1.0, reference_max=1.0)
    other.prepare(by_hand, agent)
    assert other.info.reference_source == "given by hand"


def test_other_bounds_are_refused_before_there_is_a_run_and_the_advice_works(tmp_path: Path, capsys) -> None:
    source = pendulum(tmp_path / "half.npz", environment_spec={
        "id": "Pendulum-v1", "arguments": {}, "wrappers": [
            {"class_path": "gymnasium.wrappers.transform_action.RescaleAction",
             "init_args": {"min_action": -1.0, "max_action": 1.0}}]})  # fmt: skip
    run = tmp_path / "run"
    arguments = [
        "fit", "--model", "ATAC", "--model.hidden", "[8]", "--data", "OfflineDataModule", "--data.source", source,
        "--data.cache_dir", str(tmp_path / "cache"), "--data.updates_per_epoch", "2", "--trainer.max_epochs", "1",
        "--trainer.logger", "false", "--evaluation.episodes", "1", "--evaluation.final_episodes", "1",
        "--run_dir", str(run), "--data.action_space", "gymnasium.spaces.Box", "--data.action_space.low", "-1.0",
        "--data.action_space.high", "1.0", "--data.action_space.shape", "[1]",
    ]  # fmt: skip
    with pytest.raises(SystemExit):
        reverie.main([*arguments, "--data.wrappers", "[]"])
    message = " ".join(capsys.readouterr().err.split())
    assert "its actions are from -1 to 1, the environment's from -2 to 2" in message
    advice = message.partition("--data.wrappers '")[2].partition("'")[0]
    assert advice == RESCALED
    assert not list(run.rglob("*.*"))
    reverie.main([*arguments, "--data.wrappers", advice])
    assert "played in: Pendulum-v1 in RescaleAction (min_action=-1.0, max_action=1.0)" in capsys.readouterr().out
