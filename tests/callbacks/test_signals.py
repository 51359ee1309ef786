"""Signals end a run in good order: a checkpoint, the right status everywhere, and the line that says how to go on."""

from __future__ import annotations

import multiprocessing
import os
import shlex
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.utilities.exceptions import SIGTERMException
from toy_run import SPACES, Stairs, Toy, ToyData, make_trainer

import callbacks.mlflow.logger
import callbacks.signals
from callbacks.checkpointing import Checkpoint, ExactResume
from callbacks.evaluation.evaluation import Evaluation
from callbacks.mlflow.logger import MLflowLogger
from callbacks.mlflow.run import MLflowRun
from callbacks.signals import STOPS, StopSignals, how_to_go_on, where_to_go_on


class Send(Callback):
    """Sends the own process a signal in a hook of the last one of 20 updates, or before update 12, by default."""

    def __init__(self, number: int, hook: str = "on_train_batch_start", at: tuple[int, ...] = (12, 20)) -> None:
        self.number = number
        self.at = at
        setattr(self, hook, self.send)

    def send(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step in self.at:
            os.kill(os.getpid(), self.number)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page is complete when a run has stopped, on a busy machine, too, where a run goes without it."""
    monkeypatch.setattr(callbacks.mlflow.logger, "STOP_SECONDS", 250.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


def run(folder: Path, store: str, *extra: Callback, step_timeout: float = 0.0, **arguments: Any) -> tuple[Any, Any]:
    logger = MLflowLogger("toys", store, run_directory=str(folder))
    stop = StopSignals()
    evaluation = Evaluation(episodes=2, final_episodes=2, step_timeout=step_timeout)
    hooks = [*extra, stop, ExactResume(), evaluation, Checkpoint(every_n_updates=0), MLflowRun(False)]
    trainer = make_trainer(folder, 2, hooks, logger=logger)
    with stop.installed():
        trainer.fit(Toy(SPACES), datamodule=ToyData(), **arguments)
    return stop, MlflowClient(store).get_run(logger.run_id)


def status(folder: Path, store: str) -> Any:
    return MlflowClient(store).get_run(MLflowLogger("toys", store, run_directory=str(folder)).run_id)


@pytest.mark.parametrize("number", STOPS)
def test_the_update_in_progress_is_kept_and_the_run_goes_on(number: signal.Signals, store: str, tmp_path: Path) -> None:
    before = [signal.getsignal(n) for n in STOPS]
    with pytest.raises(SIGTERMException):
        run(tmp_path, store, Send(number))
    assert [signal.getsignal(n) for n in STOPS] == before
    last = tmp_path / "checkpoints/last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 13
    client = MlflowClient(store)
    page = client.search_runs([client.get_experiment_by_name("toys").experiment_id], max_results=1)[0]
    assert page.info.status == "KILLED"
    assert f"{number.name} ended the run after 13 updates" in page.data.tags["mlflow.note.content"]
    assert how_to_go_on(tmp_path) in page.data.tags["mlflow.note.content"]
    _, page_after = run(tmp_path, store, ckpt_path=last)
    assert page_after.info.run_id == page.info.run_id
    assert page_after.info.status == "FINISHED"
    assert "ended the run" not in page_after.data.tags["mlflow.note.content"]


def test_in_the_last_evaluation_a_run_stops_at_once(store: str, tmp_path: Path) -> None:
    with pytest.raises(SIGTERMException):
        run(tmp_path, store, Send(signal.SIGTERM, "on_train_end"))
    assert not (tmp_path / "final_evaluation.json").exists()
    run(tmp_path, store, ckpt_path=tmp_path / "checkpoints/last.ckpt")
    assert (tmp_path / "final_evaluation.json").exists()


@pytest.mark.parametrize("limit", [0.0, 30.0])
def test_the_step_of_an_environment_lets_a_signal_pass(
    limit: float, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Trained(Callback):
        def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
            step = Stairs.step
            left = [signal.SIGTERM]

            def told(self: Stairs, action: Any) -> Any:
                if left:
                    os.kill(os.getpid(), left.pop())
                return step(self, action)

            monkeypatch.setattr(Stairs, "step", told)

    with pytest.raises(SIGTERMException):
        run(tmp_path, store, Trained(), step_timeout=limit)
    assert not (tmp_path / "final_evaluation.json").exists()


def send_twice() -> None:
    with StopSignals().installed():
        for _ in range(2):
            try:  # as code that forgives everything
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.01)
            except SystemExit:
                continue


@pytest.mark.parametrize(("seconds", "code"), [(0.0, -signal.SIGTERM), (60.0, 0)])
def test_a_signal_that_comes_again_later_ends_the_process_in_any_case(
    seconds: float, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks.signals, "REPEATED_AFTER", seconds)
    child = multiprocessing.get_context("fork").Process(target=send_twice)
    child.start()
    child.join(250)
    assert child.exitcode == code


def test_processes_ask_each_other_every_tenth_update_or_second_and_before_an_evaluation() -> None:
    asked: list[int] = []
    now: dict[str, Any] = {}

    def reduce(mine: torch.Tensor, reduce_op: str) -> torch.Tensor:
        assert reduce_op == "max"
        asked.append(now["update"])
        return torch.stack([mine[0], torch.tensor(now["pace"])])

    strategy = SimpleNamespace(reduce=reduce, root_device="cpu")
    connector = SimpleNamespace(received_sigterm=False)
    trainer: Any = SimpleNamespace(world_size=2, strategy=strategy, is_last_batch=False, _signal_connector=connector)
    stop = StopSignals()
    for update in range(1, 40):
        now |= {"update": update, "pace": 0.001 if update < 20 else 0.4}
        trainer.is_last_batch = update == 38
        stop.on_train_batch_end(trainer, SimpleNamespace(), None, None, 0)
    assert asked == [1, 11, 21, 23, 25, 27, 29, 31, 33, 35, 37, 38]
    assert not connector.received_sigterm
    stop.received = signal.SIGTERM
    stop.on_train_batch_end(trainer, SimpleNamespace(), None, None, 0)
    assert connector.received_sigterm


def test_before_training_a_run_stops_at_once_and_leaves_no_checkpoint(store: str, tmp_path: Path) -> None:
    class Early(Callback):
        def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
            os.kill(os.getpid(), signal.SIGHUP)

    with pytest.raises(SIGTERMException):
        run(tmp_path, store, Early())
    assert not (tmp_path / "checkpoints/last.ckpt").exists()


def test_ctrl_c_is_killed_too(store: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        run(tmp_path, store, Send(signal.SIGINT))
    client = MlflowClient(store)
    page = client.search_runs([client.get_experiment_by_name("toys").experiment_id], max_results=1)[0]
    assert page.info.status == "KILLED"
    assert "Ctrl-C ended the run after 12 updates" in page.data.tags["mlflow.note.content"]
    assert "To go on from update 10, in" in page.data.tags["mlflow.note.content"]


def test_the_page_tells_of_the_checkpoint_that_the_signal_made(store: str, tmp_path: Path) -> None:
    with pytest.raises(SIGTERMException):
        run(tmp_path, store, Send(signal.SIGTERM, at=(3,)))
    client = MlflowClient(store)
    page = client.search_runs([client.get_experiment_by_name("toys").experiment_id], max_results=1)[0]
    said = page.data.tags["mlflow.note.content"]
    assert "To go on from update 4, in" in said
    assert how_to_go_on(tmp_path).endswith("last.ckpt")
    assert how_to_go_on(tmp_path) in said


def wait(begun: Any) -> None:
    begun.set()
    for _ in range(200):
        time.sleep(0.05)


def test_what_nohup_ignores_stays_ignored_and_forked_processes_end() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals().installed() as _:
            os.kill(os.getpid(), signal.SIGHUP)
            fork = multiprocessing.get_context("fork")
            begun = fork.Event()
            child = fork.Process(target=wait, args=(begun,), daemon=True)
            child.start()
            assert begun.wait(250)
            child.terminate()
            child.join(250)
            assert child.exitcode == -signal.SIGTERM
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_command_to_go_on_is_short_and_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "my runs/2026-01-01_00-00-00"
    (run / "checkpoints").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert how_to_go_on(run) == "reverie fit --config 'my runs/2026-01-01_00-00-00/config.yaml'"
    assert how_to_go_on(run, named=True) == f"{how_to_go_on(run)} --ckpt_path last"
    assert where_to_go_on(run) == "to start anew"
    (run / "checkpoints/last.ckpt").touch()
    monkeypatch.chdir("/")
    *_, path = shlex.split(how_to_go_on(run))
    assert Path(path).is_file()
    assert where_to_go_on(run) == "to go on"  # the file holds nothing
