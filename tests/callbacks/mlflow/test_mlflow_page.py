"""A run's page says where it comes from, and survives a resume, a changed setting and a lost database."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.entities import Metric, Param, RunData, RunTag
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking._tracking_service.registry import TrackingStoreRegistry
from mlflow.utils.validation import _validate_param
from pytorch_lightning import Callback, Trainer
from test_mlflow import fit, steps

from callbacks.evaluation.report import Score, markdown, score_table
from callbacks.mlflow.provenance import git_state, origin_tags, settings, without_secrets
from callbacks.mlflow.records import DESCRIPTION_LENGTH, with_our_part
from callbacks.mlflow.store import Known

CONFIG = """
seed_everything: 3
ckpt_path: runs/x/last.ckpt
model:
  class_path: modules.algorithms.atac.ATAC
  init_args: {beta: [1, 4], trunk: null, lr: 1.0e-05}
trainer:
  callbacks:
  - class_path: PopArt
  - class_path: Experts
    init_args: {interval: 5}
  logger: {init_args: {tracking_uri: "http://me:secret@host:5000/x"}}
data: {init_args: {environment_arguments: {"a/../b (c)": "x"}, long: "%s"}}
""" % ("y" * 9000)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


def test_the_whole_config_is_parameters_that_mlflow_takes(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    found = settings(tmp_path / "config.yaml")
    assert found["model.init_args.beta"] == "[1, 4]"
    assert found["model.init_args.trunk"] == "null"
    assert float(found["model.init_args.lr"]) == 1e-5
    assert found["trainer.callbacks.1.init_args.interval"] == "5"
    assert found["trainer.logger.init_args.tracking_uri"] == "http://***@host:5000/x"
    assert found["seed"] == found["seed_everything"] == "3"
    assert "ckpt_path" not in found
    new, changed = Known().split(found)
    assert changed == {}
    assert len(new) == len(found)
    for key, value in new.items():
        assert _validate_param(key, value).value == value


def test_a_changed_parameter_becomes_a_tag_with_all_its_values() -> None:
    known = Known(params={"beta": "1"})
    assert known.split({"beta": 1, "new": True}) == ({"new": "True"}, {})
    assert known.split({"beta": 4, "new": True}) == ({}, {"changed/beta": "1 -> 4"})
    assert known.split({"beta": 4}) == ({}, {})
    assert known.split({"beta": 1}) == ({}, {"changed/beta": "1 -> 4 -> 1"})
    again = Known(params={"beta": "1"}, tags={"changed/beta": "1 -> 4"})  # of a store, by a later process
    assert again.split({"beta": 4}) == ({}, {})


def test_the_last_step_of_each_metric_is_known() -> None:
    data = RunData([Metric("a", 1.0, 0, 7), Metric("b", 2.0, 0, 0)], [Param("p", "1")], [RunTag("t", "2")])
    assert Known.of(SimpleNamespace(data=data)) == Known({"p": "1"}, {"t": "2"}, {"a": 7, "b": 0})


def test_the_users_own_commit_stands_beside_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert git_state(tmp_path) is None
    assert "mlflow.source.git.commit" not in origin_tags(None)
    git = ["git", "-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "mine.py").write_text("1")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "x"], check=True)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    tags = origin_tags("reverie fit --x http://me:secret@host/")
    assert len(tags["mlflow.source.git.commit"]) == 40
    assert tags["mlflow.source.git.commit"] != tags.get("reverie/git_commit")
    assert tags["git.dirty"] == "false"
    assert tags["command"] == "reverie fit --x http://***@host/"
    assert tags["mlflow.user"]
    (tmp_path / "mine.py").write_text("2")
    found = git_state(tmp_path)
    assert found is not None
    assert found[2] == "true"
    with monkeypatch.context() as patched:  # code that is imported is not changed by that, and git is not asked again
        patched.setattr(subprocess, "run", None)
        assert origin_tags(None)["git.dirty"] == "false"
    states = [git_state(tmp_path / "sub", besides=name) for name in (None, "mine.py", "sub")]
    assert [state and state[2] for state in states] == ["true", "false", "true"]
    assert without_secrets("sqlite:////a@b.db") == "sqlite:////a@b.db"


def test_people_keep_what_they_write_into_a_description() -> None:
    first = with_our_part("", "one")
    edited = f"my note\n{first}\nmore"
    second = with_our_part(edited, "two")
    assert second == edited.replace("one", "two")
    cut = second[: second.index("two") + 3]  # the end of our part is gone
    assert with_our_part(cut, "three").count("three") == 1
    assert len(with_our_part("x" * 3000, "y" * 9000)) == DESCRIPTION_LENGTH


def test_a_long_table_is_counted_where_it_is_cut() -> None:
    rows = [Score(5, "last", "last", f"beta=4/seed={m}", 3, 1.0, 0.5, 1.5) for m in range(300)]
    text = markdown(score_table(rows, "Toy on stairs"))
    shown = [line for line in text.splitlines() if line.startswith("|  beta=4/seed=")]
    assert len(text) < 6100
    assert text.endswith(f"and {300 - len(shown)} more rows, all of them in `evaluation.csv`")


def test_the_description_tells_the_results_and_how_to_repeat_them(store: str, tmp_path: Path) -> None:
    client, logger = fit(store, tmp_path / "run", members=2)
    page = client.get_run(logger.run_id)
    said = page.data.tags["mlflow.note.content"]
    assert "| policy | updates | return |" in said
    assert "| best checkpoint | 20 |" in said
    assert "|  beta=4/seed=1 | 20 |" in said
    assert "config.yaml --ckpt_path" in said
    assert page.data.tags["mlflow.user"]
    child = client.search_runs([logger.experiment_id], f"tags.`mlflow.parentRunId` = '{logger.run_id}'")[0]
    assert child.data.tags["mlflow.note.content"] == said
    assert child.data.params["seed"] == child.info.run_name[-1]
    assert not [tag for tag in child.data.tags if tag.startswith("changed/")]


class Remove(Callback):
    """Removes a file in the middle of the run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 12:
            self.path.rename(self.path.with_suffix(".away"))


def test_a_database_that_is_removed_stops_nothing_and_a_new_one_gets_the_rest(
    store: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    database = Path(store.removeprefix("sqlite:///"))
    told = (
        "was removed or replaced, and what it had is lost; training goes on, and its records are kept .*ckpt_path last"
    )
    with pytest.warns(UserWarning, match=told) as caught:
        fit(store, tmp_path / "run", extra=[Remove(database)])
    assert len([w for w in caught if "MLflow" in str(w.message)]) <= 2  # values, and files
    assert len(capfd.readouterr().err.splitlines()) < 10
    assert not database.exists()
    SqlAlchemyStore._engine_map.clear()  # as in a new process
    TrackingStoreRegistry._get_store_with_resolved_uri.cache_clear()
    with pytest.warns(UserWarning, match="is gone from"):
        client, logger = fit(store, tmp_path / "run", epochs=3, ckpt_path=tmp_path / "run/checkpoints/last.ckpt")
    kept = [step for step, _ in steps(client, logger.run_id, "toy/loss")]
    assert kept[-4:] == [15, 20, 25, 30]
    assert kept == sorted(set(kept))
    assert not (tmp_path / "run/mlflow-spool.jsonl").exists()
    assert client.get_run(logger.run_id).info.status == "FINISHED"
