from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest
from mlflow import MlflowClient
from toy_run import SPACES, Toy, ToyData, make_trainer

from callbacks.checkpointing import Checkpoint, ExactResume
from callbacks.evaluation.evaluation import Evaluation
from callbacks.mlflow.logger import MLflowLogger
from callbacks.mlflow.run import MLflowRun, dataset_record
from callbacks.mlflow.store import metric_name


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


def fit(store, folder, epochs=2, members=1, extra=(), **arguments):
    logger = MLflowLogger("toys", store, run_directory=str(folder))
    callbacks = [Evaluation(episodes=2, final_episodes=2), ExactResume(), *extra, MLflowRun(), Checkpoint()]
    trainer = make_trainer(folder, epochs, callbacks, logger=logger)
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text("seed: 0\n")
    trainer.fit(Toy(SPACES, members=members), datamodule=ToyData(), **arguments)
    return MlflowClient(store), logger


def steps(client, run_id, key):
    return [(m.step, m.value) for m in client.get_metric_history(run_id, key)]


def test_a_run_page_holds_everything(store, tmp_path):
    client, logger = fit(store, tmp_path / "first")
    run = client.get_run(logger.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "first"
    assert run.data.params["members"] == "1"
    assert [s for s, _ in steps(client, logger.run_id, "toy/loss")] == [5, 10, 15, 20]
    assert [s for s, _ in steps(client, logger.run_id, "evaluation/return")] == [10, 20]
    assert {"behaviour/return", "last/return", "best/return"} <= set(run.data.metrics)
    assert run.data.tags["dataset/content_hash"] == "ab" * 32
    assert run.data.tags["agent"] == "toy_run.Toy"
    assert run.data.tags["version/torch"].startswith("2.")
    assert run.inputs.dataset_inputs[0].dataset.name == "stairs-mixed"
    files = {f.path for f in client.list_artifacts(logger.run_id)}
    expected = {"config.yaml", "dataset_card.md", "evaluation.csv", "evaluation.json", "learning_curve.png"}
    assert expected | {"packages.txt", "checkpoints"} <= files
    assert {f.path for f in client.list_artifacts(logger.run_id, "checkpoints")} == {
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
    }
    table = json.loads(Path(client.download_artifacts(logger.run_id, "evaluation.json")).read_text())
    assert table["columns"][:6] == ["label", "updates", "mean", "low", "high", "kind"]
    assert [row[5] for row in table["data"]] == ["behaviour", "curve", "curve", "last", "best"]
    assert "member" not in table["columns"]  # nobody has a name here
    saved = json.loads((tmp_path / "first/mlflow_run.json").read_text())
    assert saved["run_id"] == logger.run_id
    assert saved["tracking_uri"] == store
    assert logger.save_dir == str(tmp_path / "first")


def test_files_go_beside_the_database(store, tmp_path):
    client = MlflowClient(store)
    location = client.get_experiment_by_name("toys").artifact_location
    assert location.endswith("/mlartifacts")
    assert location.startswith("file:///")


def test_each_member_has_a_child_run(store, tmp_path):
    client, logger = fit(store, tmp_path / "population", members=2)
    parent = client.get_run(logger.run_id)
    assert "toy/beta_4/seed_1/loss" in parent.data.metrics
    assert parent.data.metrics["evaluation/return"] != 0
    children = client.search_runs(
        [logger.experiment_id], f"tags.`mlflow.parentRunId` = '{logger.run_id}'", order_by=["attributes.run_name"]
    )
    assert [c.info.run_name for c in children] == ["beta=4/seed=0", "beta=4/seed=1"]
    assert {c.info.status for c in children} == {"FINISHED"}
    assert children[1].data.params == {"beta": "4", "seed": "1"}
    assert steps(client, children[1].info.run_id, "toy/loss") == steps(client, logger.run_id, "toy/beta_4/seed_1/loss")
    assert "evaluation/return" in children[1].data.metrics
    assert "evaluation/normalized_return/low" in children[1].data.metrics


def test_a_resume_continues_the_same_run(store, tmp_path):
    folder = tmp_path / "resumed"
    with pytest.raises(RuntimeError, match="power cut"):
        fit(store, folder, members=2, extra=[Break(13)])
    saved = json.loads((folder / "mlflow_run.json").read_text())
    assert MlflowClient(store).get_run(saved["run_id"]).info.status == "FAILED"
    # a changed setting is said, and the parameter stays as it was first logged
    logger = MLflowLogger("toys", store, run_directory=str(folder))
    logger.log_hyperparams({"members": 2, "start": 0.5, "new": 1})
    client, logger = fit(store, folder, epochs=3, members=2, ckpt_path=folder / "checkpoints/last.ckpt")
    assert json.loads((folder / "mlflow_run.json").read_text()) == saved
    run = client.get_run(logger.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["start"] == "0.0"
    assert run.data.params["new"] == "1"
    assert [s for s, _ in steps(client, logger.run_id, "toy/beta_4/seed_0/loss")] == [5, 10, 15, 20, 25, 30]
    assert len(client.search_runs([logger.experiment_id], f"tags.`mlflow.parentRunId` = '{logger.run_id}'")) == 2


class Break(ExactResume):
    def __init__(self, updates):
        super().__init__()
        self.updates = updates

    @property
    def state_key(self):
        return "Break"

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.updates:
            raise RuntimeError("power cut")


def open_new_store(uri, folder, results):
    results.put(MLflowLogger("toys", uri, run_directory=str(folder)).run_id)


def test_three_processes_create_one_database_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    uri = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    processes = [context.Process(target=open_new_store, args=(uri, tmp_path / str(i), results)) for i in range(3)]
    for process in processes:
        process.start()
    ids = {results.get(timeout=250) for _ in processes}
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(ids) == 3
    assert {e.name for e in MlflowClient(uri).search_experiments()} == {"Default", "toys"}


def test_a_deleted_experiment_is_named(store, tmp_path):
    client = MlflowClient(store)
    client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(ValueError, match=r"'gone' was deleted .*mlflow experiments restore"):
        _ = MLflowLogger("gone", store, run_directory=str(tmp_path)).experiment


def test_names_and_records():
    assert metric_name("atac/beta=0.0625/seed=0/loss[1]") == "atac/beta_0.0625/seed_0/loss_1_"
    record = dataset_record(ToyData().info)
    assert record["digest"] == "ab" * 18
    assert json.loads(record["profile"])["mean_return"] == 2.0
