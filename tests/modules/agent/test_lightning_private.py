"""The private parts of Lightning that this project uses do what it relies on; upgrades that change them fail here."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.utilities.exceptions import SIGTERMException
from toy_run import SPACES, Toy, ToyData, make_trainer

from callbacks.checkpointing import Checkpoint
from commands.strategy import AgentDDP
from modules.agent.lightning_private import (
    WatchedLauncher,
    count_update,
    end_after_update,
    lacks_metric,
    was_restoring,
)


class CountMore(Callback):
    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        for _ in range(2):
            count_update(trainer)


def test_a_counted_update_is_one_of_global_step(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, 1, [CountMore()], limit_train_batches=3)
    trainer.fit(Toy(SPACES), datamodule=ToyData())
    assert trainer.global_step == 9  # the agent counts one itself


class EndAt(Callback):
    def __init__(self, update: int) -> None:
        self.update = update
        self.seen: list[int] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(trainer.global_step)
        if trainer.global_step == self.update:
            end_after_update(trainer)


@pytest.mark.parametrize("update", [4, 10])
def test_a_run_ends_behind_the_update_as_after_sigterm(update: int, tmp_path: Path) -> None:
    end = EndAt(update)
    trainer = make_trainer(tmp_path, 2, [end])
    with pytest.raises(SIGTERMException):
        trainer.fit(Toy(SPACES), datamodule=ToyData())
    assert end.seen == list(range(1, update + 1))
    assert trainer.received_sigterm


def test_early_stopping_without_its_metric_is_told_from_other_errors(tmp_path: Path) -> None:
    stopping = EarlyStopping("nothing/logs_this", check_on_train_epoch_end=True)
    trainer = make_trainer(tmp_path, 1, [stopping], limit_train_batches=2)
    with pytest.raises(RuntimeError) as raised:
        trainer.fit(Toy(SPACES), datamodule=ToyData())
    assert lacks_metric(raised.value)
    assert not lacks_metric(RuntimeError("nothing/logs_this"))


def test_errors_of_restoring_are_told_from_others(tmp_path: Path) -> None:
    make_trainer(tmp_path, 1, [Checkpoint()]).fit(Toy(SPACES), datamodule=ToyData())
    last = tmp_path / "checkpoints/last.ckpt"
    content = torch.load(last, weights_only=True)
    del content["pytorch-lightning_version"]
    torch.save(content, last)
    with pytest.raises(KeyError) as raised:
        make_trainer(tmp_path, 2, []).fit(Toy(SPACES), datamodule=ToyData(), ckpt_path=last)
    assert was_restoring(raised.value)
    with pytest.raises(KeyError) as raised:
        content["pytorch-lightning_version"]
    assert not was_restoring(raised.value)


def test_the_run_watches_its_processes_in_place_of_lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning would kill the first process without a word."""

    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: "the second one")
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "0")  # which Lightning sets, and pytest takes back
        monkeypatch.delenv(name)
    seen: list[Any] = []
    strategy = AgentDDP()
    monkeypatch.setattr(strategy, "processes_started", seen.append)
    trainer = Trainer(accelerator="cpu", devices=2, strategy=strategy, logger=False, enable_checkpointing=False)
    launcher = trainer.strategy.launcher
    assert isinstance(launcher, WatchedLauncher)
    assert launcher.launch(lambda: "done") == "done"
    assert seen == [["the second one"]]
    assert "child-process-observer" not in [thread.name for thread in threading.enumerate()]
