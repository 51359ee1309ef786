from __future__ import annotations

import json
import multiprocessing
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from toy_run import SPACES, Toy, ToyData, make_trainer

from callbacks.checkpointing import Checkpoint, ExactResume
from callbacks.evaluation import Evaluation
from callbacks.mlflow import MLflowRun, code_version, dataset_record
from callbacks.mlflow_logger import MLflowLogger, check_reachable, metric_name
from callbacks.mlflow_writer import METRICS_PER_CALL, BackgroundWriter, merge


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


def fit(store, folder, epochs=2, members=1, extra=(), **arguments):
    logger = MLflowLogger("toys", store, run_directory=str(folder))
    callbacks = [MLflowRun(), Evaluation(episodes=2, final_episodes=2), ExactResume(), *extra, Checkpoint()]
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
    assert table["columns"][1] == "kind"
    assert [row[1] for row in table["data"]] == ["behaviour", "curve", "curve", "last", "best"]
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
    ids = {results.get(timeout=100) for _ in processes}
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


# ------------------------------------------------------------------------------------------------ servers that are away
def closed_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_a_server_that_is_away_at_the_start_is_said_at_once(tmp_path):
    began = time.monotonic()
    uri = f"http://127.0.0.1:{closed_port()}"
    with pytest.raises(ValueError, match=f"no MLflow tracking server answers at {uri}"):
        make_trainer(tmp_path, 1, [], logger=MLflowLogger("toys", uri, run_directory=str(tmp_path))).fit(
            Toy(SPACES), datamodule=ToyData()
        )
    assert time.monotonic() - began < 3


def test_a_server_that_accepts_and_never_answers_is_said_within_seconds():
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        began = time.monotonic()
        with pytest.raises(ValueError, match="no MLflow tracking server answers"):
            check_reachable(f"http://127.0.0.1:{frozen.getsockname()[1]}")
        assert time.monotonic() - began < 6


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "mlflow.db").write_text("not a database at all")
    with pytest.raises(ValueError, match=r"mlflow\.db is no SQLite database"):
        check_reachable(f"sqlite:///{tmp_path / 'mlflow.db'}")
    with pytest.raises(ValueError, match="cannot be written"):
        check_reachable("sqlite:////proc/nowhere/mlflow.db")


class MortalServer(ThreadingHTTPServer):
    """As much of an MLflow server as a run needs; after `die` it closes every connection without an answer."""

    def __init__(self, artifacts):
        self.dead, self.metrics = False, []
        server = self
        info = {"run_id": "r1", "run_uuid": "r1", "experiment_id": "7", "status": "RUNNING", "artifact_uri": artifacts}
        run = {"run": {"info": info, "data": {}}}
        experiment = {"experiment": {"experiment_id": "7", "name": "toys", "lifecycle_stage": "active"}}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.reply(experiment if "experiments" in self.path else run if "runs/get" in self.path else {})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if not server.dead:
                    server.metrics += [(m["key"], m["step"]) for m in body.get("metrics", [])]
                self.reply(run if "runs/create" in self.path else {})

            do_PATCH = do_POST

            def reply(self, answer):
                if server.dead:
                    self.connection.close()
                    return
                text = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *args):
                """Silence."""

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        """Silence: the connections of a dead server break."""

    @property
    def uri(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Kill(ExactResume):
    def __init__(self, server):
        super().__init__()
        self.server = server

    @property
    def state_key(self):
        return "Kill"

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 12:
            time.sleep(0.5)  # what was logged so far has time to arrive
            self.server.dead = True


def test_a_server_that_dies_stops_nothing_and_gets_the_rest_when_it_is_back(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    server = MortalServer((tmp_path / "artifacts").as_uri())
    logger = MLflowLogger("toys", server.uri, run_directory=str(tmp_path))
    callbacks = [MLflowRun(), Kill(server), Checkpoint()]
    trainer = make_trainer(tmp_path, 3, callbacks, logger=logger)
    began = time.monotonic()
    with pytest.warns(UserWarning, match="tracking server is away; training goes on") as caught:
        trainer.fit(Toy(SPACES), datamodule=ToyData(environment=None))
    assert time.monotonic() - began < 15
    assert trainer.global_step == 30
    assert len([w for w in caught if "is away" in str(w.message)]) == 1
    assert [s for k, s in server.metrics if k == "toy/loss"] == [5, 10]
    spool = tmp_path / "mlflow-spool.jsonl"
    records = [json.loads(line) for line in spool.read_text().splitlines()]
    spooled = [step for r in records if r["kind"] == "metrics" for key, _, _, step in r["values"] if key == "toy/loss"]
    assert spooled == [15, 20, 25, 30]
    assert "status" in {r["kind"] for r in records}

    server.dead = False  # the server is back when the run is continued, and a crash had cut the last line short
    with spool.open("a") as file:
        file.write('{"kind": "metr\n')
    writer = BackgroundWriter(MlflowClient(server.uri), spool)
    writer.put({"kind": "metrics", "run_id": "r1", "values": [("toy/loss", 0.0, 0, 35)]})
    assert writer.flush(10)
    assert [s for k, s in server.metrics if k == "toy/loss"] == [5, 10, 15, 20, 25, 30, 35]
    assert not spool.exists()
    assert json.loads((tmp_path / "mlflow-rejected.jsonl").read_text())["line"] == '{"kind": "metr'
    server.shutdown()


class Deaf:
    """A client whose calls never return."""

    def log_batch(self, *args, **kwargs):
        time.sleep(60)


def test_a_call_that_never_returns_holds_neither_logging_nor_the_end(tmp_path):
    writer = BackgroundWriter(Deaf(), tmp_path / "spool.jsonl")
    began = time.monotonic()
    for step in range(100):
        writer.put({"kind": "metrics", "run_id": "r", "values": [("a", 1.0, 0, step)]})
        time.sleep(0.001)
    assert time.monotonic() - began < 2
    with pytest.warns(UserWarning, match="did not answer in time"):
        assert not writer.flush(0.2)
    values = [v for r in (tmp_path / "spool.jsonl").read_text().splitlines() for v in json.loads(r)["values"]]
    assert [step for *_, step in values] == list(range(100))


class Strict:
    """A client that refuses one record and takes the others."""

    def __init__(self):
        self.taken = []

    def log_batch(self, run_id, metrics=(), params=(), tags=()):
        if params:
            raise MlflowException.invalid_parameter_value("Changing param values is not allowed")
        self.taken += [m.step for m in metrics]


def test_a_refused_record_is_kept_apart_and_the_others_go_on(tmp_path):
    client = Strict()
    writer = BackgroundWriter(client, tmp_path / "spool.jsonl")
    for step in range(2):
        writer.put({"kind": "metrics", "run_id": "r", "values": [("a", 1.0, 0, step)]})
        writer.put({"kind": "params", "run_id": "r", "values": {"x": "2"}})
    with pytest.warns(UserWarning, match="MLflow refuses params"):
        writer.flush(5)
    assert client.taken == [0, 1]
    assert not (tmp_path / "spool.jsonl").exists()
    assert len((tmp_path / "mlflow-rejected.jsonl").read_text().splitlines()) == 2


class NoFiles:
    """A client whose artifact store is away until it is `open`, while the tracking server is there."""

    def __init__(self):
        self.taken, self.open = [], False

    def log_batch(self, run_id, metrics=(), params=(), tags=()):
        self.taken += [m.step for m in metrics]

    def log_text(self, run_id, text, path):
        if not self.open:
            raise ConnectionError("no bucket")
        self.taken.append(text)


def test_a_lost_artifact_store_does_not_hold_back_metrics(tmp_path):
    client = NoFiles()
    writer = BackgroundWriter(client, tmp_path / "spool.jsonl")
    for step in range(2):
        writer.put({"kind": "text", "run_id": "r", "text": f"note {step}", "path": "x.md"})
        writer.put({"kind": "metrics", "run_id": "r", "values": [("a", 1.0, 0, step)]})
    with pytest.warns(UserWarning, match="MLflow does not take files"):
        writer.flush(5)
    assert client.taken == [0, 1]
    assert (tmp_path / "spool.jsonl").read_text().count('"text": "note') == 2
    client.open = True
    writer.flush(5)
    assert client.taken == [0, 1, "note 0", "note 1"]
    assert not (tmp_path / "spool.jsonl").exists()


def test_metrics_are_batched_below_the_limit_and_in_order():
    records = [{"kind": "metrics", "run_id": "r", "values": [("a", 0.0, 0, i)] * 7} for i in range(300)]
    status = {"kind": "status", "run_id": "r", "status": "FINISHED"}
    sizes = [len(r["values"]) if "values" in r else 0 for r in merge([*records, status, records[0]])]
    assert sizes == [METRICS_PER_CALL, METRICS_PER_CALL, 300, 0, 7]


def test_names_and_records():
    assert metric_name("atac/beta=0.0625/seed=0/loss[1]") == "atac/beta_0.0625/seed_0/loss_1_"
    record = dataset_record(ToyData().info)
    assert record["digest"] == "ab" * 18
    assert json.loads(record["profile"])["mean_return"] == 2.0
    version = code_version()
    assert version == {} or len(version["mlflow.source.git.commit"]) == 40
