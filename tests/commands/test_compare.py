"""`compare`: folders and MLflow tell the same of a run, and what cannot be compared is told."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from command_line import mistake
from mlflow import MlflowClient
from toy_run import SPACES, Toy, ToyData, make_trainer

from callbacks.checkpointing import Checkpoint, ExactResume
from callbacks.evaluation.evaluation import Evaluation
from callbacks.mlflow.logged_scores import read_logged
from callbacks.mlflow.logger import MLflowLogger
from callbacks.mlflow.run import MLflowRun
from callbacks.mlflow.store import open_store
from callbacks.wall_time import WallTime
from commands.compare import main
from commands.compared_runs import find_runs, read_folder


def fit(root: Path, seed: int, members: int = 1, start: float = 0.0, experiment: str = "toys") -> Path:
    """A run in `root/runs/EXPERIMENT/SEED-START` that is logged to `root/mlflow.db`."""
    folder = root / "runs" / experiment / f"{seed}-{start:g}"
    folder.mkdir(parents=True)
    arguments = f"{{members: {members}, start: {start}}}"
    (folder / "config.yaml").write_text(
        f"seed_everything: {seed}\nmodel: {{class_path: toy_run.Toy, init_args: {arguments}}}\n"
        "evaluation: {episodes: 2, final_episodes: 2, seed: 0, max_episode_steps: 100}\n"
    )
    logger = MLflowLogger(experiment, f"sqlite:///{root / 'mlflow.db'}", run_directory=str(folder))
    evaluation = Evaluation(episodes=2, final_episodes=2)
    trainer = make_trainer(
        folder,
        2,
        [evaluation, ExactResume(), WallTime(), MLflowRun(upload_checkpoints=False), Checkpoint()],
        logger=logger,
    )
    trainer.fit(Toy(SPACES, members=members, start=start), datamodule=ToyData())
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs with two settings, and a population in an experiment of its own."""
    root = tmp_path_factory.mktemp("compare")
    for seed, start in ((0, 0.0), (0, 0.5), (1, 0.5)):
        fit(root, seed, start=start)
    fit(root, 0, members=2, experiment="population")
    return root


def told(run: Any) -> Any:
    """All that a comparison takes of a run, wherever it was read."""
    scores = [
        (s.kind, s.updates, s.mean, s.normalized, s.environment_steps) for s in run.scores if s.kind != "behaviour"
    ]
    return run.chosen, run.member, run.seeds, run.task, run.yardstick, scores, run.seconds


def written_scores() -> dict[str, float]:
    with Path("compare/scores.csv").open() as file:
        return {row["run"]: float(row["score"]) for row in csv.DictReader(file)}


@pytest.mark.long
def test_a_folder_and_mlflow_tell_the_same(root: Path) -> None:
    client = open_store(f"sqlite:///{root / 'mlflow.db'}")
    for experiment, count in (("toys", 3), ("population", 2)):
        logged = read_logged(client, experiment)
        folders = find_runs([str(root / "runs" / experiment)], None, lambda name: None)
        assert sorted(map(str, map(told, logged))) == sorted(map(str, map(told, folders)))
        assert len(folders) == count
    run = read_folder(root / "runs/population/0-0", open_store)[1]
    assert run.member == "beta=4/seed=1"
    assert run.chosen["model.init_args.beta"] == "4"
    assert run.task.label == "stairs-mixed"
    assert run.yardstick == "0 is 0.0, 100 is 5.0 (given by hand)"
    assert [(s.kind, s.updates) for s in run.scores][-2:] == [("last", 20), ("best", 20)]
    assert [updates for updates, _ in run.seconds] == [5, 10, 15, 20]
    assert 0 < run.seconds[0][1] < run.seconds[-1][1]
    alone = read_logged(client, json.loads((root / "runs/toys/1-0.5/mlflow_run.json").read_text())["run_id"])
    assert [one.settings["seed_everything"] for one in alone] == ["1"]
    # The page of a population whose members are runs of their own.
    ids = [json.loads(path.read_text())["run_id"] for path in sorted(root.glob("runs/toys/*/mlflow_run.json"))[:2]]
    page = client.create_run(client.get_experiment_by_name("toys").experiment_id).info.run_id
    for id in ids:
        client.set_tag(id, "mlflow.parentRunId", page)
    assert len(read_logged(client, page)) == 2
    assert len(read_logged(client, "toys")) == 3


def test_a_comparison_is_printed_written_and_logged(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{root / 'mlflow.db'}"
    main([str(root / "runs/toys"), "--resamples", "100", "--mlflow_experiment", "compared", "--tracking_uri", uri])
    shown = capsys.readouterr().out
    assert "Toy start=0.5" in shown
    assert "scores: returns of the last policy; normalised return, %" in shown
    assert "Toy start=0.5 better than Toy start=0: probability 1.00" in shown
    rows = list(csv.DictReader((tmp_path / "compare/compare.csv").open()))
    assert {row["number"] for row in rows} >= {"IQM", "median", "mean", "optimality gap"}
    assert {path.name for path in Path("compare").iterdir()} == {
        "compare.csv", "compare.html", "compare.png", "curves.csv", "scores.csv",
    }  # fmt: skip
    # In MLflow it is a run of its own, which no comparison takes for a trained one.
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("compared").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["compare/Toy start_0.5/IQM"] == float(next(r["value"] for r in rows if "0.5" in r["group"]))
    assert {f.path for f in client.list_artifacts(run.info.run_id, "compare")} >= {"compare/compare.html"}
    with pytest.raises(ValueError, match="no run of compared in MLflow has returns"):
        read_logged(client, "compared")


def test_other_tasks_and_unfinished_runs_are_refused_until_it_is_said(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs/0"
    run.mkdir(parents=True)
    for name in ("config.yaml", "evaluation.csv"):
        text = (root / "runs/toys/0-0" / name).read_text()
        (run / name).write_text(text.replace("seed_everything: 0", "seed_everything: 7"))
    given = ["compare", str(root / "runs/toys"), "runs/0"]
    said = mistake(given, capsys)
    assert "environment differs: Stairs-v0 in" in said
    assert "data differs: stairs-mixed in" in said
    assert said.endswith("--across '[environment, data]'")
    lines = (run / "evaluation.csv").read_text().splitlines(keepends=True)
    (run / "evaluation.csv").write_text("".join(line for line in lines if ",last," not in line))
    assert "runs/0 has no score 'last': it has not ended" in mistake(given, capsys)
    main([*given[1:], "--unfinished", "leave_out", "--resamples", "50"])
    assert "left out, without a score: runs/0" in capsys.readouterr().out
    # Given references, twice as far apart as the runs' own.
    common = [*given[1:2], "--score", "curve", "--by", "start", "--resamples", "20"]
    main([*common, "--references", '{"Stairs-v0": [0, 10]}'])
    halves = written_scores()
    main(common)
    wholes = written_scores()
    assert halves == pytest.approx({name: value / 2 for name, value in wholes.items()})


def test_mistakes_are_named(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert "is no folder, and there is no sqlite:///" in mistake(["compare", "toys"], capsys)
    assert "no folder at runs/nobody" in mistake(["compare", "runs/nobody"], capsys)
    assert "needs runs: folders such as" in mistake(["compare", "--runs", "[]"], capsys)
    Path("empty").mkdir()
    assert "no run in empty has config.yaml and evaluation.csv" in mistake(["compare", "empty"], capsys)
    store = ["--tracking_uri", f"sqlite:///{root / 'mlflow.db'}"]
    assert "no experiment or run id in this MLflow store; did you mean toys?" in mistake(
        ["compare", "toy", *store], capsys
    )
    given = ["compare", str(root / "runs/toys")]
    said = mistake([*given, "--references", '{"Stairs-v0": [5, 0]}'], capsys)
    assert "--references: Stairs-v0 needs the lower return first, got 5 and 0" in said
    assert "--by nothing: no run has such a setting" in mistake([*given, "--by", "[nothing]"], capsys)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "config.yaml").write_text("seed_everything: 0\n")
    (damaged / "evaluation.csv").write_text("updates,kind,label,member,count,mean,low,high\nx,last,l,,1,2,3,4\n")
    assert "evaluation.csv is damaged: invalid literal for int()" in mistake(["compare", "damaged"], capsys)
    (damaged / "config.yaml").write_text("model: [\n")
    assert "config.yaml is damaged" in mistake(["compare", "damaged"], capsys)
