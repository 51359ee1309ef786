"""`reverie sync` sends what waits in the folders of runs, once, and says what it cannot send."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from command_line import mistake
from mlflow import MlflowClient

import reverie
from callbacks.mlflow.logger import MLflowLogger
from commands.run_directory import occupied


def interrupted(store: str, folder: Path, steps: range) -> str:
    """Id of a run whose process was killed before it sent its points and its status."""
    folder.mkdir(parents=True)
    logger = MLflowLogger("toys", store, run_directory=str(folder))
    run = str(logger.run_id)
    points = [["loss", float(step), 1000 * step, step] for step in steps]
    lines = [{"kind": "metrics", "values": [point]} for point in points] + [{"kind": "status", "status": "FINISHED"}]
    (folder / "mlflow-spool.jsonl").write_text("".join(json.dumps({"run_id": run, **line}) + "\n" for line in lines))
    return run


def test_all_that_waits_below_a_folder_is_sent_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    runs = {name: interrupted(store, tmp_path / name, range(1, 6)) for name in ("runs/a/one", "runs/a/two", "runs/b/x")}
    client = MlflowClient(store)
    client.log_metric(runs["runs/a/one"], "loss", 1.0, timestamp=1000, step=1)  # the kill came before it was marked
    with occupied(tmp_path / "runs/b/x", continued=True):
        assert "runs/b/x: process" in mistake(["sync", "--folder", "runs"], capsys)
    assert not Path("runs/a/one/mlflow-spool.jsonl").exists()
    reverie.main(["sync"])
    assert capsys.readouterr().out == "runs/b/x: all is in MLflow\n"
    for run in runs.values():
        assert Counter(point.step for point in client.get_metric_history(run, "loss")) == Counter(range(1, 6))
        assert client.get_run(run).info.status == "FINISHED"
    reverie.main(["sync", "--folder", "runs/a/one"])
    assert capsys.readouterr().out.startswith("nothing waits for MLflow in ")


def test_a_run_that_mlflow_does_not_have_any_more_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    interrupted(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "run", range(3))
    saved = json.loads(Path("run/mlflow_run.json").read_text())
    Path("run/mlflow_run.json").write_text(json.dumps(saved | {"run_id": "0" * 32}))
    assert "no longer has the run: `reverie fit ... --ckpt_path last`" in mistake(["sync", "--folder", "run"], capsys)
    Path("mlflow.db").unlink()
    assert "neither a server nor a database of MLflow's that is there" in mistake(["sync"], capsys)
    assert len(Path("run/mlflow-spool.jsonl").read_text().splitlines()) == 4
    assert "there is no folder nowhere" in mistake(["sync", "--folder", "nowhere"], capsys)
