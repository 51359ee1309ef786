"""Trainings of benchmarks that may be cut: followed, told, read back, and run again where anything decisive changed."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
import learning_runs  # noqa: E402 - scripts beside the package
import measured_by  # noqa: E402
import resumed_runs  # noqa: E402
from filelock import FileLock  # noqa: E402

from commands.run_directory import occupied  # noqa: E402

TASK = ("a2c/catch", ("--trainer.max_epochs", "5"))


@pytest.mark.parametrize(("status", "expected"), [(0, "done"), (2, "refused"), (1, "failed")])
def test_a_run_is_followed_and_its_end_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, expected: str
) -> None:
    fake = tmp_path / "python"
    lines = ["training IQL", " 25% 1,000 of 4,000 updates, 5.0 updates/s, training", "reverie: error: no such set"]
    printed = "\n".join(f"echo '{line}'" for line in lines)
    fake.write_text(f'#!/bin/sh\n{printed}\necho "$REVERIE_RUN_DIR $OMP_NUM_THREADS $@"\nexit {status}\n')
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    monkeypatch.setattr(resumed_runs, "LOG_SECONDS", -1.0)
    told: list[str] = []
    folder = tmp_path / "run"
    facts = resumed_runs.fit(folder, ["--config", "iql/mujoco"], 100.0, 3, told.append)
    assert facts == resumed_runs.read_facts(folder)
    assert facts["status"] == expected
    assert facts["reason"] == ("" if status == 0 else "no such set")
    assert facts["seconds"] >= 100
    assert told == ["1,000 of 4,000 updates, 5.0 updates/s, training"]
    last = (folder / "log.txt").read_text().splitlines()[-1]
    assert last.startswith(f"{folder} 3 -m reverie fit --config iql/mujoco")
    assert last.endswith("--ckpt_path last")


def test_a_run_that_a_killed_call_left_is_named_at_once_and_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, told = tmp_path / "python", []
    fake.write_text("#!/bin/sh\nexit 0\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with ThreadPoolExecutor(1) as pool:
        with occupied(tmp_path / "run", True):
            started = pool.submit(resumed_runs.fit, tmp_path / "run", [], 0.0, 1, told.append)
            while not told:
                assert not started.done()
                time.sleep(0.01)
            (tmp_path / "run/config.yaml").touch()
            assert not started.done()
            assert not (tmp_path / "run/cell.json").exists()
        assert started.result()["status"] == "done"
    who = f"process {os.getpid()} on {platform.node()}"
    assert told == [f"{who} trains here, left by a call that was killed: waiting for it; end it to go on now"]
    resumed_runs.fit(tmp_path / "run", [], 0.0, 1, told.append)  # nobody is in the way
    assert len(told) == 1


def test_the_time_left_is_from_the_speed() -> None:
    assert resumed_runs.time_left((0.0, 100), (60.0, 200), 800) == ", about 6 min left"
    assert resumed_runs.time_left((0.0, 100), (0.0, 100), 800) == ""


class Trainer:
    """Takes the place of `reverie fit`: each start ends as the next of `outcomes` says, after a minute."""

    def __init__(self, *outcomes: str) -> None:
        self.outcomes = list(outcomes)
        self.told: list[tuple[list[str], float]] = []

    def __call__(self, folder: Path, arguments: list[str], seconds: float, *_: Any) -> dict[str, Any]:
        self.told.append((arguments, seconds))
        facts = {"status": self.outcomes.pop(0), "reason": "for a reason", "seconds": seconds + 60.0}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / resumed_runs.FACTS).write_text(json.dumps(facts))
        (folder / "evaluation.csv").write_text("kind,mean\nlast,7\n")
        return facts


@pytest.fixture
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning_runs, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(learning_runs, "RESULTS", tmp_path / "results")


@pytest.mark.usefixtures("_here")
def test_a_cut_run_goes_on_in_its_folder_and_one_that_has_ended_is_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = Trainer("unfinished", "done")
    monkeypatch.setattr(resumed_runs, "fit", fit)
    seen: list[Path] = []

    def measure(directory: Path) -> dict[str, Any]:
        seen.append(directory)
        if len(seen) == 1:
            raise KeyboardInterrupt  # what is measured afterwards is cut, not the training
        return {"games": 3}

    with pytest.raises(learning_runs.Unfinished, match=r"unfinished \(for a reason\), see .*log.txt"):
        learning_runs.run("popart-catch", TASK, 4, measure)
    with pytest.raises(KeyboardInterrupt):
        learning_runs.run("popart-catch", TASK, 4, measure)
    result = learning_runs.run("popart-catch", TASK, 4, measure)
    arguments = ["--config", "a2c/catch", "--seed_everything", "4", "--trainer.max_epochs", "5"]
    assert fit.told == [(arguments, 0.0), (arguments, 60.0)]  # the third call trains nothing
    assert seen == [learning_runs.place("popart-catch", TASK, 4)[0]] * 2
    assert result.pop("date")
    assert result.pop("origin") == measured_by.origin(seen[:1])
    assert result == {"seed": 4, "minutes": 2.0, "rows": [{"kind": "last", "mean": 7.0}], "games": 3}
    learning_runs.add("popart-catch", TASK, result)
    assert learning_runs.measured_seeds("popart-catch") == {4}


@pytest.mark.usefixtures("_here")
def test_two_commands_do_not_run_one_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumed_runs, "fit", Trainer("done"))
    folder, _ = learning_runs.place("popart-catch", TASK, 0)
    folder.mkdir(parents=True)
    with FileLock(folder / ".measured.lock"), pytest.raises(learning_runs.Unfinished, match="another command"):
        learning_runs.run("popart-catch", TASK, 0, lambda directory: {})


def test_all_that_decides_numbers_decides_the_folder(tmp_path: Path) -> None:
    config = tmp_path / "own.yaml"
    config.write_text("trainer: {max_epochs: 3}\n")
    extra = ("--config", str(config))
    places = [
        learning_runs.place("popart-catch", TASK, 0)[0],
        learning_runs.place("popart-catch", TASK, 1)[0],
        learning_runs.place("popart-catch", (TASK[0], ()), 0)[0],
        learning_runs.place("popart-catch", TASK, 0, "content of the data")[0],
        learning_runs.place("popart-catch", (TASK[0], extra), 0)[0],
    ]
    config.write_text("trainer: {max_epochs: 4}\n")
    places.append(learning_runs.place("popart-catch", (TASK[0], extra), 0)[0])
    assert len(set(places)) == len(places)
    assert places[0] == learning_runs.place("popart-catch", TASK, 0)[0]
