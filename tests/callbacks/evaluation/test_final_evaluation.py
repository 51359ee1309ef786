"""A run that ends within its last evaluation gets it when it is continued, once."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from pytorch_lightning import Callback, Trainer
from toy_run import SPACES, Toy, ToyData, make_trainer

from callbacks.checkpointing import Checkpoint, ExactResume
from callbacks.evaluation.evaluation import Evaluation
from callbacks.mlflow.logger import MLflowLogger
from callbacks.mlflow.run import MLflowRun


class PowerCut(Callback):
    """Ends the run after its last checkpoint, before or within the last evaluation."""

    def __init__(self, where: str) -> None:
        self.where = where

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        if self.where == "on_train_end":
            return
        evaluation = next(c for c in trainer.callbacks if isinstance(c, Evaluation))  # type: ignore[attr-defined]
        setattr(evaluation, self.where, self.cut)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        if self.where == "on_train_end":
            self.cut()

    def cut(self, *args: Any) -> None:
        raise RuntimeError("power cut")


class PlayedData(ToyData):
    """Collects five steps for each update; how many it has is known when training starts, as a replay knows it."""

    environment_steps = 0

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        self.environment_steps += 5
        return batch

    def rank_state(self) -> dict[str, Any]:
        return {**super().rank_state(), "steps": self.environment_steps}

    def load_rank_state(self, state: Mapping[str, Any]) -> None:
        super().load_rank_state(state)
        self.environment_steps = state["steps"]


def run(folder: Path, store: str, cut: str | None = None, **arguments: Any) -> MLflowLogger:
    torch.manual_seed(0)
    logger = MLflowLogger("toys", store, run_directory=str(folder))
    extra = [] if cut is None else [PowerCut(cut)]
    callbacks = [*extra, Evaluation(episodes=2, final_episodes=3), ExactResume(), MLflowRun(False), Checkpoint()]
    trainer = make_trainer(folder, 2, callbacks, logger=logger)
    trainer.fit(Toy(SPACES, members=2, warm_start=7), datamodule=PlayedData(), **arguments)
    return logger


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


def table(printed: str) -> list[str]:
    lines = printed.splitlines()
    return [line for line in lines if not line.startswith(("run:", "checkpoint:", "curves:"))]


@pytest.mark.long
@pytest.mark.parametrize("cut", ["on_train_end", "_score_kept"])
def test_the_last_evaluation_is_played_on_resume_and_only_once(
    cut: str, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole", store)
    expected = table(capsys.readouterr().out)
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "cut", store, cut)
    capsys.readouterr()
    last = tmp_path / "cut/checkpoints/last.ckpt"
    logger = run(tmp_path / "cut", store, ckpt_path=last)
    printed = capsys.readouterr()
    assert table(printed.out) == expected
    assert "playing the last evaluation" in printed.err
    rows = [list(csv.reader((tmp_path / name / "evaluation.csv").open())) for name in ("whole", "cut")]
    assert rows[0] == rows[1]
    assert [row[1] for row in rows[0]].count("best") == 3  # two members and their mean
    steps = {row["kind"]: row["environment_steps"] for row in csv.DictReader((tmp_path / "cut/evaluation.csv").open())}
    assert steps["last"] == steps["curve"] == "100"
    client = MlflowClient(logger.tracking_uri)
    pages = [client.get_run(x.run_id) for x in (whole, logger)]
    assert pages[0].data.metrics.keys() == pages[1].data.metrics.keys()
    assert pages[0].data.metrics["best/return"] == pages[1].data.metrics["best/return"]
    assert pages[1].info.status == "FINISHED"
    assert [f.path for f in client.list_artifacts(logger.run_id)].count("evaluation.json") == 1

    monkeypatch.setattr("callbacks.evaluation.player.evaluate_policy", None)  # a run that finished plays nothing again
    logger = run(tmp_path / "cut", store, ckpt_path=last)
    printed = capsys.readouterr()
    assert table(printed.out) == expected
    assert "playing" not in printed.err
    assert len(client.get_metric_history(logger.run_id, "last/return")) == 1
