from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning import Callback
from toy_run import SPACES, Toy, ToyData, make_trainer

from callbacks.wall_time import WallTime
from modules import wall_time
from modules.wall_time import timed


class Slow(Callback):
    """Each epoch of ten updates ends with ten seconds of evaluation, and each update takes one; nothing else does."""

    def __init__(self, clock: list[float]) -> None:
        self.clock = clock

    def on_train_batch_start(self, *_: Any) -> None:
        with timed("updating"):
            self.clock[0] += 1.0

    def on_train_epoch_end(self, *_: Any) -> None:
        with timed("evaluating"):
            self.clock[0] += 10.0


def test_milliseconds_per_update_are_those_since_the_metrics_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(wall_time.time, "perf_counter", lambda: clock[0])
    agent, logged = Toy(SPACES), []
    log = agent.log_metrics
    monkeypatch.setattr(
        agent, "log_metrics", lambda values: (logged.append((agent.updates, dict(values))), log(values))
    )
    with timed("collecting"):
        clock[0] += 5.0  # before training
    make_trainer(tmp_path, 2, [WallTime(), Slow(clock)]).fit(agent, datamodule=ToyData())
    times = [(at, {k: v for k, v in values.items() if v}) for at, values in logged if "time/updating" in values]
    first, later = {"time/updating": 1000.0}, {"time/evaluating": 2000.0, "time/updating": 1000.0}
    assert times == [(5, first), (10, first), (15, later), (20, first)]  # an evaluation counts for the updates after it
