"""`reverie sweep` with real runs: members of one process, its pages in MLflow, the best config, and mistakes."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from command_line import mistake
from forked import PATIENCE
from mlflow import MlflowClient
from offline_runs import write_data

import reverie
from commands.compared_runs import read_scores

CONFIG = """
model:
  class_path: modules.algorithms.td3_bc.TD3BC
  init_args: {hidden: [8, 8]}
data:
  class_path: datamodules.offline.OfflineDataModule
  init_args: {source: data.npz, environment: Pendulum-v1, cache_dir: cache, batch_size: 8, updates_per_epoch: 4}
trainer: {max_epochs: 2, log_every_n_steps: 1}
evaluation: {episodes: 1, final_episodes: 1}
"""
SPACE = """
model.actor_lr: {low: 1e-3, high: 1e-1, log: true}
model.alpha: {choices: [1.0, 2.5]}
"""


def write_files(folder: Path) -> None:
    write_data(folder / "data.npz")
    (folder / "mine.yaml").write_text(CONFIG)
    (folder / "space.yaml").write_text(SPACE)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a sweep of two trials with two choices and two seeds each, in `out`."""
    folder = tmp_path_factory.mktemp("swept")
    write_files(folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        reverie.main(["sweep", "--config", "mine", "--space", "space.yaml", "--trials", "2", "--seeds", "3", "4",
                      "--run_dir", "out"])  # fmt: skip
    return folder


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "out/trials.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.long
def test_choices_and_seeds_are_members_of_one_process(swept: Path) -> None:
    found = rows(swept)
    assert [(row["trial"], row["model.alpha"]) for row in found] == [
        ("0", "1.0"), ("0", "2.5"), ("1", "1.0"), ("1", "2.5"),
    ]  # fmt: skip
    for trial in (0, 1):
        assert [path.name for path in (swept / f"out/trial-{trial}").iterdir() if path.is_dir()] == ["run"]
        scores = read_scores(swept / f"out/trial-{trial}/run/evaluation.csv")
        last = {score.member: score.mean for score in scores if score.kind == "last"}
        for row in found[2 * trial : 2 * trial + 2]:
            members = [last[f"alpha={float(row['model.alpha']):g}/seed={seed}"] for seed in (3, 4)]
            assert [float(row["seed 3"]), float(row["seed 4"])] == members
            assert float(row["score"]) == pytest.approx(sum(members) / 2)
    assert found[0]["model.actor_lr"] == found[1]["model.actor_lr"] != found[2]["model.actor_lr"]


@pytest.mark.long
def test_the_best_config_repeats_the_best_trial(swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(swept)
    best = max(rows(swept), key=lambda row: float(row["score"]))
    reverie.main(["fit", "--config", "out/best.yaml", "--run_dir", "again", "--trainer.logger", "false"])
    (path,) = (swept / "again").glob("*/evaluation.csv")
    last = {score.member: score.mean for score in read_scores(path) if score.kind == "last"}
    name = f"alpha={float(best['model.alpha']):g}"
    for seed in (3, 4):
        assert last[f"{name}/seed={seed}"] == float(best[f"seed {seed}"])
    config = yaml.safe_load((swept / "out/best.yaml").read_text())
    assert config["trainer"]["logger"]["init_args"]["experiment_name"].startswith("<name of")
    assert not config["trainer"]["callbacks"], "nothing of the sweep"


@pytest.mark.long
def test_pages_in_mlflow_are_nested(swept: Path) -> None:
    client = MlflowClient(f"sqlite:///{swept / 'mlflow.db'}")
    pages = client.search_runs([e.experiment_id for e in client.search_experiments()])
    by_id = {page.info.run_id: page for page in pages}
    parents = {page.info.run_id: page.data.tags.get("mlflow.parentRunId") for page in pages}
    (top,) = [run for run, parent in parents.items() if parent is None]
    trials = sorted((by_id[run] for run, parent in parents.items() if parent == top), key=lambda p: p.info.run_name)
    assert [trial.info.run_name for trial in trials] == ["trial-0", "trial-1"]
    for trial, row in zip(trials, rows(swept)[::2], strict=True):
        assert trial.data.params == {"model.actor_lr": row["model.actor_lr"]}
        both = [other["score"] for other in rows(swept) if other["trial"] == row["trial"]]
        assert trial.data.metrics["sweep/score"] == max(map(float, both))
        assert trial.info.status == "FINISHED"
        (run,) = [by_id[run] for run, parent in parents.items() if parent == trial.info.run_id]
        members = [by_id[run_id] for run_id, parent in parents.items() if parent == run.info.run_id]
        assert len(members) == 4
    history = client.get_metric_history(top, "sweep/best")
    reached = [trial.data.metrics["sweep/score"] for trial in trials]
    assert [(point.step, point.value) for point in history] == [(0, reached[0]), (1, max(reached))]
    assert by_id[top].info.status == "FINISHED"
    assert {"best.yaml", "trials.csv"} <= {file.path for file in client.list_artifacts(top)}


@pytest.mark.long
def test_the_same_command_finds_nothing_left(
    swept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(swept)
    before = rows(swept)
    reverie.main(["sweep", "--config", "mine", "--space", "space.yaml", "--trials", "2", "--seeds", "3", "4",
                  "--run_dir", "out"])  # fmt: skip
    printed = capsys.readouterr()
    assert "model.alpha as members of one process, seeds 3, 4 (members of one process)" in printed.err
    assert "trials: 4 complete" in printed.out
    assert rows(swept) == before


@pytest.mark.long
def test_data_without_an_environment_are_swept_by_a_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(CONFIG.replace("environment: Pendulum-v1, ", ""))
    command = ["sweep", "--config", "mine", "--space", "space.yaml", "--trials", "2", "--seeds", "0", "1",
               "--run_dir", "out", "--score"]  # fmt: skip
    for score, said in (
        (["curve"], "without an environment name a metric of held-out data"),
        (["validation/td_eror", "--mode", "min"], r"is logged by no validation of .*, which logs validation/"),
    ):
        with pytest.raises(SystemExit):
            reverie.main([*command, *score])
        assert re.search(said, capsys.readouterr().err.splitlines()[-1])
        shutil.rmtree("out")
    reverie.main([*command, "validation/td_error", "--mode", "min"])
    found = rows(tmp_path)
    assert len(found) == 4
    # Scores are those of each member's last validation, as the checkpoint has it.
    for row in found:
        checkpoint = torch.load(f"out/trial-{row['trial']}/run/checkpoints/last.ckpt", weights_only=True)
        measured = checkpoint["callbacks"]["TrialReport"]["measured"]
        last = [one["mean"] for one in measured if one["updates"] == 8 and f"alpha={float(row['model.alpha']):g}/" in
                one["member"]]  # fmt: skip
        assert float(row["score"]) == pytest.approx(sum(last) / 2)
        assert len(measured) == 8  # two validations of four members
    best = min(found, key=lambda row: float(row["score"]))
    assert f"best: trial {best['trial']}: " in capsys.readouterr().out
    reverie.main([*command, "validation/td_error", "--mode", "min"])
    assert rows(tmp_path) == found


def newest(folder: Path) -> float:
    """Time of the last change below a folder."""
    times = [folder.stat().st_mtime]
    for path in folder.rglob("*"):
        try:
            times.append(path.stat().st_mtime)
        except FileNotFoundError:  # moved into its place meanwhile
            continue
    return max(times)


def wait_until(reached: Callable[[], bool], folder: Path) -> None:
    """Wait as long as something changes below a folder, however long that takes on a busy machine."""
    seen, end = 0.0, time.monotonic() + PATIENCE
    while not reached():
        if (now := newest(folder)) != seen:
            seen, end = now, time.monotonic() + PATIENCE
        assert time.monotonic() < end, f"nothing has changed for {PATIENCE:.0f} s"
        time.sleep(0.5)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_workers_on_ray_try_the_same_and_a_signal_leaves_a_sweep_that_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    write_files(tmp_path)
    # A module of the user's own beside the command, which the workers find as well.
    (tmp_path / "mine.py").write_text("from modules.algorithms.td3_bc import TD3BC\n\nclass Own(TD3BC):\n    pass\n")
    (tmp_path / "mine.yaml").write_text(CONFIG.replace("modules.algorithms.td3_bc.TD3BC", "mine.Own"))
    command = [sys.executable, "-m", "reverie", "sweep", "--config", "mine.yaml", "--space", "space.yaml", "--trials",
               "4", "--ray_workers", "2", "--run_dir", "out", "--", "--trust", "mine"]  # fmt: skip
    told = tmp_path / "told.txt"

    def run(until: Callable[[str], bool]) -> int:
        """The command's status; it is asked to end once what it has told is enough."""
        with told.open("w") as file, subprocess.Popen(command, cwd=tmp_path, stdout=file, stderr=file) as process:
            try:
                wait_until(lambda: process.poll() is not None or until(told.read_text()), tmp_path)
                process.terminate()
                wait_until(lambda: process.poll() is not None, tmp_path)
            finally:
                process.kill()
        return process.returncode

    assert run(lambda text: any("trial " in line and "best" in line for line in text.splitlines())) == 143
    assert "stopped in" in told.read_text()
    # The same command trains what is left, and no trial twice.
    assert run(lambda text: False) == 0, told.read_text()
    found = rows(tmp_path)
    assert sorted({row["trial"] for row in found}) == ["0", "1", "2", "3"]
    assert {row["state"] for row in found} == {"complete"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--seeds", "1", "1"], "--seeds has a seed twice, got [1, 1]: equal seeds learn the same"),
        (["--workers", "2", "--ray_workers", "2"], "--workers and --ray_workers are two ways to train trials"),
        (["--ray_workers", "0"], "ray_workers must be at least 1"),
        (["--trials", "0"], "trials must be at least 1"),
        (["--hours", "-1"], "hours must be"),
        (["--mode", "min"], "--mode min: of returns, which --score last is, more is better; it is for metrics"),
        (["--score", "lst"], "--score lst: one of last, best, curve, or a metric such as validation/action_error"),
        (["--space", "nowhere"], "there is no file and no packaged config 'nowhere'"),
        (["--trainer.max_epochs", "1"], "those stand behind --, as in `reverie sweep ... -- --trainer.max_epochs"),
        (["--", "--run_dir", "x"], "--run_dir would be overridden: a sweep has --seeds and --run_dir of its own"),
        (["--", "--model.alpha", "3"], "--model.alpha would be overridden"),
        (["--", "--trainer.devices", "2"], "trainer.devices 2: a trial trains in one process"),
        (["--", "--evaluation.final_episodes", "0"], "--score last is what evaluation.final_episodes are played for"),
        (["--", "--model.seeds", "2"], "--model.seeds would be overridden"),
        (["--", "--model.beta", "2"], "beta"),
    ],
)
def test_mistakes_are_told_before_a_trial_begins(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: list[str],
    message: str,
) -> None:
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    command = ["sweep", "--config", "mine", "--space", "space.yaml", "--run_dir", "out", *changes]
    assert message in mistake(command, capsys)
    assert not (tmp_path / "out").exists()
