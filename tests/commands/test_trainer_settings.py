"""Every setting of the trainer works with agents, or is refused in one line that says what to use instead."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, LightningDataModule, Trainer

import reverie
from callbacks.checkpointing import AtomicCheckpointIO, ExactResume
from commands.class_names import argument_names
from commands.lightning import import_classes
from commands.lightning_cli import ReverieCLI
from commands.trainer_settings import check_trainer
from datamodules.offline import OfflineDataModule
from datamodules.online import OnlineDataModule
from datamodules.synthetic import MixtureTask
from modules.agent.agent import Agent
from modules.agent.warm_start import WarmStart
from modules.algorithms.a2c import A2C
from modules.algorithms.atac import ATAC
from modules.algorithms.dreamer import DreamerV2
from modules.algorithms.moe_regression import MoERegression
from modules.algorithms.r2d2 import R2D2
from modules.networks.blocks import MLP

TINY = [
    *("--config", "atac/pendulum", "--data.source", "walks.npz", "--model.hidden", "[4]"),
    *("--model.warm_start.updates", "2", "--data.updates_per_epoch", "4", "--data.batch_size", "4"),
    *("--data.validation_batches", "1", "--trainer.accelerator", "cpu", "--trainer.max_epochs", "2"),
    *("--trainer.logger", "false", "--checkpoint.monitor", "validation/td_error", "--checkpoint.mode", "min"),
    *("--run_dir", "runs/tiny"),
]


@pytest.fixture
def walks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of ten episodes, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path / "cache"))
    rng, steps = np.random.default_rng(0), 200
    actions = rng.uniform(-1, 1, (steps, 2)).astype(np.float32)
    timeouts = np.arange(steps) % 20 == 19
    np.savez(
        "walks.npz", observations=rng.normal(size=(steps, 3)).astype(np.float32), actions=actions,
        rewards=actions.sum(1), terminals=np.zeros(steps, bool), timeouts=timeouts,
    )  # fmt: skip
    return tmp_path / "walks.npz"


@pytest.mark.parametrize(
    ("setting", "value", "parts"),
    [
        ("accumulate_grad_batches", "2", ["data.batch_size"]),
        ("gradient_clip_val", "1", ["clip their gradients themselves", "this one does not"]),
        ("gradient_clip_algorithm", "norm", ["clip their gradients themselves"]),
        ("precision", "64", ["32-true or bf16-mixed"]),
        ("precision", "bf16-true", ["32-true or bf16-mixed"]),
        ("precision", "16-mixed", ["32-true or bf16-mixed"]),
        ("val_check_interval", "0", ["must be positive", "limit_val_batches"]),
        ("val_check_interval", "100", ["(100)", "number of the training batches (4)"]),
        ("check_val_every_n_epoch", "0", ["must be positive"]),
        ("check_val_every_n_epoch", "-1", ["must be positive"]),
        ("min_epochs", "5", ["max_epochs is 2"]),
        ("barebones", "true", ["leave it out"]),
        ("num_nodes", "2", ["MASTER_ADDR"]),
        ("num_nodes", "0", ["num_nodes"]),
        ("devices", "0", ["devices"]),
        ("max_time", "soon", ["DD:HH:MM:SS"]),
        ("profiler", "quick", ["profiler", "simple"]),
        ("log_every_n_steps", "0", ["at least 1"]),
        ("max_steps", "-5", ["max_steps"]),
        ("limit_train_batches", "1.5", ["limit_train_batches"]),
        ("overfit_batches", "0.01", ["less than one batch"]),
    ],
)
def test_what_agents_cannot_do_is_refused(
    setting: str, value: str, parts: list[str], walks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    with pytest.raises(SystemExit) as leaving:
        reverie.main(["fit", *TINY, f"--trainer.{setting}", value])
    assert leaving.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("reverie: error: ")
    assert all(part in message for part in parts), message
    assert setting in message or setting == "max_time", message
    assert not list(Path("runs/tiny").glob("*/checkpoints"))


@pytest.mark.parametrize(("agent", "name"), [(A2C, "clip_norm"), (R2D2, "clip_norm"), (DreamerV2, "model_clip_norm")])
def test_the_agents_own_name_for_clipping_is_told(agent: type[Agent], name: str) -> None:
    usual = dict.fromkeys(
        ("min_epochs", "max_epochs", "min_steps", "max_steps", "precision", "check_val_every_n_epoch")
    )
    usual |= {"log_every_n_steps": 1, "accumulate_grad_batches": 1, "val_check_interval": None, "barebones": False}
    settings = {**usual, "num_nodes": 1, "gradient_clip_val": 1.0, "gradient_clip_algorithm": None}
    with pytest.raises(ValueError, match=rf"trainer\.gradient_clip_val: 1\.0: .* set model\.{name}$"):
        check_trainer(settings, argument_names(agent))
    check_trainer({**settings, "gradient_clip_val": None}, argument_names(agent))


def test_settings_that_work(walks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import_classes()
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.enable_checkpointing", "false"]
    cli = ReverieCLI("fit", [*TINY, *quiet, "--trainer.check_val_every_n_epoch", "null"])
    assert cli.trainer.global_step == 8
    assert not (cli.directory / "checkpoints").exists()
    assert "updates/s" not in capsys.readouterr().err
    several = {
        "detect_anomaly": "true", "inference_mode": "false", "profiler": "simple", "precision": "bf16-mixed",
        "val_check_interval": "0.5", "reload_dataloaders_every_n_epochs": "1", "sync_batchnorm": "true",
        "limit_train_batches": "3", "limit_val_batches": "0", "min_epochs": "1", "max_time": "00:01:00:00",
        "num_sanity_val_steps": "1", "enable_model_summary": "true", "deterministic": "true", "benchmark": "true",
    }  # fmt: skip
    try:
        cli = ReverieCLI("fit", [*TINY, *(part for k, v in several.items() for part in (f"--trainer.{k}", v))])
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = False
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    assert cli.trainer.global_step == 6
    assert ReverieCLI("fit", [*TINY, "--trainer.fast_dev_run", "2"]).trainer.global_step == 2


class Look(Callback):
    """Remembers what every batch holds."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Agent, batch: dict, batch_idx: int) -> None:
        self.seen.append(float(batch["observation" if "observation" in batch.keys() else "input"].sum()))  # noqa: SIM118


def look(data: LightningDataModule, agent: Agent, folder: Path, path: str | None = None, **options: object) -> list:
    seen, exact = Look(), ExactResume()
    trainer = Trainer(
        logger=False, enable_checkpointing=False, callbacks=[seen, exact], enable_progress_bar=False, accelerator="cpu",
        enable_model_summary=False, limit_val_batches=0, default_root_dir=folder, plugins=[AtomicCheckpointIO()],
        **options,
    )  # fmt: skip
    trainer.fit(agent, datamodule=data, ckpt_path=path)
    trainer.save_checkpoint(folder / "it.ckpt")
    return seen.seen


@pytest.mark.parametrize("kind", ["offline", "prefetch", "synthetic"])
def test_overfitting_shows_the_same_batches_in_every_epoch(kind: str, walks: Path) -> None:
    def make() -> tuple[LightningDataModule, Agent, Path]:
        if kind == "synthetic":
            data: LightningDataModule = MixtureTask(tasks=2, features=2, batch_size=4, updates_per_epoch=20)
            return data, MoERegression(MLP, data.spaces, schedule="constant"), walks.parent
        data = OfflineDataModule(str(walks), batch_size=4, updates_per_epoch=20, prefetch=2 * (kind == "prefetch"))
        return data, ATAC(data.spaces, hidden=[4], warm_start=WarmStart(2)), walks.parent

    first = look(*make(), max_steps=4, overfit_batches=3)  # ends within the second epoch
    assert first[0] == first[3]
    assert len(set(first)) == 3
    second = look(*make(), str(walks.parent / "it.ckpt"), max_steps=9, overfit_batches=3)
    assert second == [*first[1:3], *first[:3]]
    if kind == "offline":  # whose validation has so many batches too
        assert look(*make(), max_epochs=2, overfit_batches=0.1) == [*first[:2], *first[:2]]
    if kind != "prefetch":
        usual = look(*make(), max_epochs=2, limit_train_batches=3)
        assert usual[:3] == first[:3]
        assert len(set(usual)) == 6


def test_data_that_are_collected_refuse_to_repeat() -> None:
    data = OnlineDataModule("CartPole-v1", environments=2, prefill=100, capacity=200)
    data.trainer = Trainer(overfit_batches=3, logger=False, enable_checkpointing=False, accelerator="cpu")
    with pytest.raises(ValueError, match=r"trainer\.overfit_batches: .* leave it out"):
        data.setup("fit")
