from __future__ import annotations

import re

from pytorch_lightning import Callback
from toy_run import SPACES, Toy, ToyData, make_trainer

import callbacks.progress
from callbacks.checkpointing import Checkpoint
from callbacks.evaluation import Evaluation
from callbacks.progress import ProgressBar
from callbacks.throughput import Throughput


def test_a_file_gets_lines_with_everything(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(callbacks.progress, "_LINE_SECONDS", 0.0)
    agent = Toy(SPACES, warm_start=3)
    trainer = make_trainer(tmp_path, 2, [Evaluation(episodes=2), ProgressBar()], enable_progress_bar=True)
    trainer.fit(agent, datamodule=ToyData())
    lines = capsys.readouterr().err.splitlines()
    lines = [line for line in lines if "updates" in line]
    assert re.fullmatch(r"  5% 1 of 20 updates, [\d,.]+ updates/s, warm start", lines[0])
    assert re.fullmatch(r" 50% 10 of 20 updates, [\d,.]+ updates/s, training", lines[9])
    assert re.fullmatch(r" 55% 11 of 20 updates, [\d,.]+ updates/s, training, return -?\d+\.\d", lines[10])
    assert lines[-1].startswith("100% 20 of 20 updates")
    assert not any("\r" in line for line in lines)


class Collected(ToyData):
    environment_steps = 12_345


def test_a_run_that_collects_shows_its_steps_and_training_return(tmp_path, capsys):
    agent = Toy(SPACES)
    agent.latest_metrics["collection/return"] = 7.25
    trainer = make_trainer(tmp_path, 1, [ProgressBar()], enable_progress_bar=True)
    trainer.fit(agent, datamodule=Collected())
    assert capsys.readouterr().err.strip().endswith("training, 12,345 environment steps, training return 7.2")


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
    assert re.search(r"100%\|.*\| 20/20 updates, .*updates/s, training", shown)
    assert shown.count("\n") <= 1


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
