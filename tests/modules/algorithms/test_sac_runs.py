"""Whole runs of SAC through the command line: online from recorded data on, resumed, on recorded data alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from recorded_toys import record_toy
from runs_in_parts import last_agent, whole_and_resumed

import reverie
from callbacks.evaluation.rollout import evaluate_policy
from modules.algorithms.sac import SAC

SMALL = (
    "--model.hidden", "[8]", "--trainer.logger", "false", "--trainer.log_every_n_steps", "5", "--data.batch_size", "8",
    "--evaluation.episodes", "1", "--evaluation.final_episodes", "1",
)  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(("preset", "environment"), [("pendulum", "Pendulum-v1"), ("catch", "reverie/Catch-v0")])
def test_a_run_from_recorded_data_on_in_two_parts_is_the_whole_run(
    preset: str, environment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With vectors and continuous actions, and with images and numbered ones, of which samples are drawn."""
    monkeypatch.chdir(tmp_path)
    source = record_toy(tmp_path / "data", environment, 500)
    fit = ["fit", "--config", f"sac/{preset}", *SMALL, "--data.steps_per_epoch", "20", "--data.start_from", source]
    fit += ["--model.gradient", "gumbel_softmax"] if preset == "catch" else []
    whole, resumed = whole_and_resumed(fit, tmp_path)
    assert whole.updates == resumed.updates >= 20


@pytest.mark.long
def test_members_learn_from_recorded_data_and_one_alone_may_play(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    source = record_toy(tmp_path / "data", "Pendulum-v1", 400)
    offline = ["fit", "--model", "SAC", "--model.seeds", "2", "--data", "OfflineDataModule", "--data.source", source]
    reverie.main([*offline, *SMALL, "--data.updates_per_epoch", "5", "--trainer.max_epochs", "1", "--run_dir", "two"])
    agent = last_agent(tmp_path / "two")
    assert isinstance(agent, SAC)
    assert (agent.updates, len(agent.population)) == (5, 2)
    capsys.readouterr()

    online = ["fit", "--config", "sac/pendulum", *SMALL, "--run_dir", "refused"]
    refusals = {
        "SAC plays for its own data with one member, and has 2": ("--model.seeds", "2"),
        "gradient straight_through is of numbered actions": ("--model.gradient", "straight_through"),
        "entropy.share must lie in [0, 1]": ("--model.entropy.share", "2"),
    }
    for message, arguments in refusals.items():
        with pytest.raises(SystemExit) as leaving:
            reverie.main([*online, *arguments])
        assert leaving.value.code == 2
        said = capsys.readouterr().err
        assert message in said
        assert len(said.splitlines()) < 20
    assert not list((tmp_path / "refused").glob("*/*"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("preset", "environment", "goal"),
    [
        ("pendulum", "Pendulum-v1", -160.0),
        ("cartpole", "CartPole-v1", 475.0),
        ("catch", "reverie/Catch-v0", 0.9),
    ],
)
def test_presets_learn(
    preset: str, environment: str, goal: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reverie.main(["fit", "--config", f"sac/{preset}", "--trainer.logger", "false", "--run_dir", "run"])
    agent = last_agent(tmp_path / "run")
    assert evaluate_policy(agent, environment, 100, 0, parallel=100).returns.mean() >= goal
