"""A run that the agent refuses leaves no run folder behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import mistake
from fit_command import write_dataset

RECORDED = ["--data", "OfflineDataModule", "--data.source", "tiny.npz", "--data.batch_size", "8"]
ATAC = ["--model", "ATAC", "--model.hidden", "[8]", *RECORDED]
CLONING = ["--model", "BehaviorCloning", "--model.hidden", "[8]", *RECORDED]
A2C_PLAIN = ["--config", "a2c/cartpole", "--model.critic", "modules.networks.value_heads.Head"]
NOTHING_HELD_OUT = ["--data.validation_fraction", "0"]
REFUSED = {
    "patience of the warm start": (
        [*ATAC, "--model.warm_start.patience", "2", *NOTHING_HELD_OUT],
        "warm_start.patience looks at held-out episodes",
    ),
    "patience of cloning": ([*CLONING, *NOTHING_HELD_OUT], "patience looks at held-out episodes"),
    "patience without validation": ([*CLONING, "--trainer.limit_val_batches", "0"], "patience looks at held-out"),
    "patience of dynamics": (
        ["--model", "DynamicsEnsemble", "--model.hidden", "[8]", *RECORDED, *NOTHING_HELD_OUT],
        "patience looks at held-out episodes",
    ),
    "dynamics that are to collect": (
        [
            "--model",
            "DynamicsEnsemble",
            "--model.hidden",
            "[8]",
            "--data",
            "OnlineDataModule",
            "--data.environment",
            "Pendulum-v1",
        ],
        "chooses no actions and cannot collect",
    ),
    "first observations": ([*ATAC, "--model.pessimism", "initial"], "needs first observations"),
    "a missing reference": ([*ATAC, "--model.reference_policy", "missing.ckpt"], "no checkpoint file at missing.ckpt"),
    "a reference of another kind": (
        [*ATAC, "--model.reference_policy", "notes.txt"],
        "checkpoint notes.txt is truncated, or is no checkpoint at all",
    ),
    "a schedule without an end": (
        ["--config", "moe/compositional", "--trainer.max_epochs", "-1"],
        "one_cycle needs an end",
    ),
    "nothing for PopArt": (A2C_PLAIN, "PopArt would be ignored: no value head of A2C"),
    "no mixture": (
        [*CLONING, "--trainer.callbacks+", "callbacks.experts.experts.Experts"],
        "finds no mixture of experts that learns in BehaviorCloning",
    ),
    "no world model": (
        [*CLONING, "--trainer.callbacks+", "callbacks.world_model.report.WorldModelReport"],
        "BehaviorCloning has no open_loop",
    ),
    "no latents": (
        [*CLONING, "--trainer.callbacks+", "LatentProbe", "--trainer.callbacks.labels", "CatchLabels"],
        "LatentProbe is for agents with a model of latents: BehaviorCloning has none",
    ),
    "labels of another environment": (
        [
            "--config",
            "dreamer/cartpole",
            "--trainer.callbacks+",
            "LatentProbe",
            "--trainer.callbacks.labels",
            "CatchLabels",
        ],
        "CatchLabels cannot read environment 'CartPole-v1'",
    ),
    "both sides of a game": (
        ["--config", "a2c/cartpole", "--data.environment", "reverie/TicTacToe-v0"],
        "played by both sides, and each reward is the mover's, which A2C would add up as its own",
    ),
    "a callback that takes no part": (
        [*CLONING, "--trainer.callbacks+", "callbacks.kl_balancing.KLBalancing"],
        "KLBalancing would be ignored",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_run_that_the_agent_refuses_is_refused_before_anything_is_written(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path / "cache"))
    write_dataset(tmp_path / "tiny.npz")
    Path("notes.txt").write_text("no checkpoint")
    given, why = REFUSED[case]
    assert why in mistake(["fit", *given, "--trainer.accelerator", "cpu", "--run_dir", "refused"], capsys)
    assert list(Path("refused").iterdir()) == []
