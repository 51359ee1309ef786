from __future__ import annotations

import re
import time
from types import SimpleNamespace

from pytorch_lightning import Callback
from toy_run import SPACES, Toy, ToyData, make_trainer

import callbacks.progress
from callbacks.checkpointing import Checkpoint
from callbacks.evaluation.evaluation import Evaluation
from callbacks.progress import ProgressBar, fitting
from callbacks.throughput import Throughput
from modules.agent.lightning_private import count_update


def test_a_file_gets_lines_with_everything(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(callbacks.progress, "_LINE_SECONDS", 0.0)
    agent = Toy(SPACES, warm_start=3)
    trainer = make_trainer(tmp_path, 2, [Evaluation(episodes=2), ProgressBar()], enable_progress_bar=True)
    trainer.fit(agent, datamodule=ToyData())
    lines = capsys.readouterr().err.splitlines()
    lines = [line for line in lines if "updates" in line]
    assert re.fullmatch(r"  5% 1 of 20 updates, [\d,.]+ updates/s, warm start", lines[0])
    assert re.fullmatch(r" 50% 10 of 20 updates, [\d,.]+ updates/s, training", lines[9])
    assert re.fullmatch(r" 55% 11 of 20 updates, [\d,.]+ updates/s, training, return -?\d+\.\d+", lines[10])
    assert lines[-1].startswith("100% 20 of 20 updates")
    assert not any("\r" in line for line in lines)


class Collected(ToyData):
    environment_steps = 12_345


def test_a_run_that_collects_shows_its_steps_and_training_return(tmp_path, capsys):
    agent = Toy(SPACES)
    agent.latest_metrics["collection/return"] = 7.25
    trainer = make_trainer(tmp_path, 1, [ProgressBar()], enable_progress_bar=True)
    trainer.fit(agent, datamodule=Collected())
    assert capsys.readouterr().err.strip().endswith("training, 12,345 environment steps, training return 7.25")


def test_a_quick_run_writes_one_line(tmp_path, capsys):
    trainer = make_trainer(tmp_path, 2, [ProgressBar()], enable_progress_bar=True)
    trainer.fit(Toy(SPACES), datamodule=ToyData())
    assert len([line for line in capsys.readouterr().err.splitlines() if " updates/s" in line]) == 1


def test_a_terminal_gets_one_bar(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr(callbacks.progress, "_TERMINAL_SECONDS", 0.0)
    trainer = make_trainer(tmp_path, 2, [ProgressBar()], enable_progress_bar=True)
    trainer.fit(Toy(SPACES), datamodule=ToyData())
    shown = capsys.readouterr().err
    assert re.search(r"100%\|.*\| 20/20 updates, .*/s, training", shown)
    assert shown.splitlines()[0] == f"training Toy in {tmp_path}"
    assert shown.count("\n") <= 2


def test_what_matters_most_fits_into_a_narrow_terminal():
    facts = {"1,234/s": 1, "training": 4, "123,456 environment steps": 3, "return -1,234.5": 0}
    assert fitting(facts, 100) == list(facts)
    assert fitting(facts, 26) == ["1,234/s", "return -1,234.5"]
    assert fitting(facts, 20) == ["return -1,234.5"]
    assert fitting(facts, 10) == []


def test_a_line_of_80_columns_shows_rate_and_return_of_a_long_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    agent = Toy(SPACES)
    agent.latest_metrics |= {"collection/return": -1234.5, "evaluation/return": -1333.3}
    trainer = make_trainer(tmp_path, 50_000, [ProgressBar(), StopFarOn(monkeypatch)], enable_progress_bar=True)
    trainer.fit(agent, datamodule=Collected())
    line = capsys.readouterr().err.split("\r")[-1].rstrip("\n")
    assert len(line) <= 80
    assert re.search(r"\| 450001/500000 updates, .*, [\d,]+/s, return -1,333\.3$", line)


class StopFarOn(Callback):
    """Makes the first update the 450,000th, at a rate as of a real run, and the last."""

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        for _ in range(450_000 - trainer.global_step):
            count_update(trainer)
        self.monkeypatch.setattr(
            callbacks.progress, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 400.0)
        )
        trainer.should_stop = True


def test_a_run_that_goes_on_with_longer_or_shorter_epochs_ends_at_100_percent(tmp_path, capsys):
    for epochs, batches in ((2, 10), (3, 4), (4, 7)):
        resume = {} if epochs == 2 else {"ckpt_path": tmp_path / "checkpoints/last.ckpt"}
        callbacks_of_run = [ProgressBar(), Checkpoint()]
        trainer = make_trainer(
            tmp_path, epochs, callbacks_of_run, enable_progress_bar=True, limit_train_batches=batches
        )
        trainer.fit(Toy(SPACES), datamodule=ToyData(), **resume)
        last = [line for line in capsys.readouterr().err.splitlines() if "updates/s" in line][-1]
        done = {2: 20, 3: 24, 4: 31}[epochs]
        assert last.startswith(f"100% {done} of {done} updates")


def test_a_finished_run_that_is_continued_says_so(tmp_path, capsys):
    trainer = make_trainer(tmp_path, 1, [ProgressBar(), Checkpoint()], enable_progress_bar=True)
    trainer.fit(Toy(SPACES), datamodule=ToyData())
    assert "nothing to train" not in capsys.readouterr().err
    trainer = make_trainer(tmp_path, 1, [ProgressBar()], enable_progress_bar=True)
    trainer.fit(Toy(SPACES), datamodule=ToyData(), ckpt_path=tmp_path / "checkpoints/last.ckpt")
    assert "nothing to train: the run has its 10 updates" in capsys.readouterr().err


def test_max_steps_is_the_total_when_it_comes_first(tmp_path, capsys):
    trainer = make_trainer(tmp_path, 100, [ProgressBar()], enable_progress_bar=True, max_steps=7)
    trainer.fit(Toy(SPACES), datamodule=ToyData())
    assert "100% 7 of 7 updates" in capsys.readouterr().err


class Seen(Callback):
    """Slow epochs' ends, and what the agent's metrics say at the end."""

    def on_train_epoch_end(self, trainer, pl_module):
        callbacks.throughput.time.sleep(0.3)


def test_throughput_counts_updates_and_rows_but_no_evaluation(tmp_path):
    agent = Toy(SPACES)
    trainer = make_trainer(tmp_path, 3, [Throughput(), Seen()])
    trainer.fit(agent, datamodule=ToyData())
    updates = agent.latest_metrics["throughput/updates_per_second"]
    assert agent.latest_metrics["throughput/transitions_per_second"] == 4 * updates
    assert updates > 5 / 0.25
