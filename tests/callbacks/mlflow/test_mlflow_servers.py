"""Tracking servers that are away, die, freeze or refuse: training goes on, and nothing is lost."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from toy_run import SPACES, Toy, ToyData, make_trainer

from callbacks.checkpointing import Checkpoint, ExactResume
from callbacks.mlflow.logger import MLflowLogger
from callbacks.mlflow.records import METRICS_PER_CALL, batches
from callbacks.mlflow.run import MLflowRun
from callbacks.mlflow.store import check_reachable
from callbacks.mlflow.system import start_monitor
from callbacks.mlflow.writer import BackgroundWriter, waiting_records


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
    assert time.monotonic() - began < 60  # 247 s where MLflow tries as often as it likes


def test_a_server_that_accepts_and_never_answers_is_said_within_seconds():
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        began = time.monotonic()
        with pytest.raises(ValueError, match="no MLflow tracking server answers"):
            check_reachable(f"http://127.0.0.1:{frozen.getsockname()[1]}")
        assert time.monotonic() - began < 60


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "mlflow.db").write_text("not a database at all")
    with pytest.raises(ValueError, match=r"mlflow\.db is no SQLite database"):
        check_reachable(f"sqlite:///{tmp_path / 'mlflow.db'}")
    with pytest.raises(ValueError, match=r"/proc/nowhere/mlflow\.db \(No such file .* another tracking_uri$"):
        check_reachable("sqlite:////proc/nowhere/mlflow.db")


class MortalServer(ThreadingHTTPServer):
    """As much of an MLflow server as a run needs; after `die` it closes every connection without an answer."""

    def __init__(self, artifacts):
        self.dead = False
        self.metrics = []
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
            end = time.monotonic() + 60
            while ("toy/loss", 10) not in self.server.metrics and time.monotonic() < end:
                time.sleep(0.01)  # what was logged so far has time to arrive
            self.server.dead = True


def test_a_server_that_dies_stops_nothing_and_gets_the_rest_when_it_is_back(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    server = MortalServer((tmp_path / "artifacts").as_uri())
    logger = MLflowLogger("toys", server.uri, run_directory=str(tmp_path))
    callbacks = [MLflowRun(), Kill(server), Checkpoint()]
    trainer = make_trainer(tmp_path, 3, callbacks, logger=logger)
    began = time.monotonic()
    with pytest.warns(UserWarning, match="MLflow store is away; training goes on") as caught:
        trainer.fit(Toy(SPACES), datamodule=ToyData(environment=None))
    assert time.monotonic() - began < 100
    assert trainer.global_step == 30
    assert len([w for w in caught if "is away" in str(w.message)]) == 1
    assert [s for k, s in server.metrics if k == "toy/loss"] == [5, 10]
    spool = tmp_path / "mlflow-spool.jsonl"
    records = list(waiting_records(tmp_path))
    spooled = [step for r in records if r["kind"] == "metrics" for key, _, _, step in r["values"] if key == "toy/loss"]
    assert spooled == [15, 20, 25, 30]
    assert "status" in {r["kind"] for r in records}

    server.dead = False  # the server is back when the run is continued, and a crash had cut the last line short
    with spool.open("a") as file:
        file.write('{"kind": "metr\n')
    writer = BackgroundWriter(MlflowClient(server.uri), tmp_path)
    writer.put({"kind": "metrics", "run_id": "r1", "values": [("toy/loss", 0.0, 0, 35)]})
    assert writer.flush(100)
    assert [s for k, s in server.metrics if k == "toy/loss"] == [5, 10, 15, 20, 25, 30, 35]
    assert not spool.exists()
    assert json.loads((tmp_path / "mlflow-rejected.jsonl").read_text())["line"] == '{"kind": "metr'
    server.shutdown()


class Deaf:
    """A client whose calls never return."""

    def log_batch(self, *args, **kwargs):
        time.sleep(60)


def test_a_call_that_never_returns_holds_neither_logging_nor_the_end(tmp_path):
    writer = BackgroundWriter(Deaf(), tmp_path)
    began = time.monotonic()
    for step in range(100):
        writer.put({"kind": "metrics", "run_id": "r", "values": [("a", 1.0, 0, step)]})
        time.sleep(0.001)
    assert time.monotonic() - began < 30  # half of one call
    with pytest.warns(UserWarning, match="did not answer in time"):
        assert not writer.flush(0.2)
    values = [v for r in (tmp_path / "mlflow-spool.jsonl").read_text().splitlines() for v in json.loads(r)["values"]]
    assert [step for *_, step in values] == list(range(100))


def test_what_a_killed_process_left_is_sent_once_and_in_order(tmp_path, monkeypatch):
    """Whatever the moment of the kill: the file and the place beside it are all that is left of the process."""
    monkeypatch.setattr("callbacks.mlflow.records.METRICS_PER_CALL", 10)  # a call for every tenth value
    left, server = tmp_path / "left", Breaking()
    left.mkdir()
    writer = BackgroundWriter(Deaf(), left)
    for step in range(100):
        writer.put({"kind": "metrics", "run_id": "r", "values": [("a", 1.0, 0, step)]})
    for breaks_after in (3, 4, 100):  # calls until the server goes away
        server.calls_left = breaks_after
        copy = tmp_path / f"copy-{breaks_after}"
        shutil.copytree(left, copy)  # as a kill leaves it
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            BackgroundWriter(server, copy).flush(250)
        left = copy
    assert server.taken == list(range(100))
    assert list(copy.iterdir()) == []


class Recorder:
    """As much of a logger as the monitor of the machine needs, with a store that it cannot ask."""

    run_id, tracking_uri = "r", "http://127.0.0.1:1"

    def __init__(self):
        self.steps = []

    def put(self, kind, values):
        assert kind == "metrics"
        assert {"system/cpu_utilization_percentage"} <= {name for name, *_ in values}
        self.steps.append(values[0][3])


def test_the_machine_is_watched_whatever_the_server_does(monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.01")
    monkeypatch.setattr(SystemMetricsMonitor, "_get_next_logging_step", lambda self, run_id: 7)
    logger = Recorder()
    monitor = start_monitor(logger)
    end = time.monotonic() + 100
    while len(logger.steps) < 3 and time.monotonic() < end:
        time.sleep(0.01)
    monitor.finish()
    assert logger.steps[:3] == [7, 8, 9]


class Breaking:
    """A client that is away after some calls."""

    def __init__(self):
        self.taken = []
        self.calls_left = 0

    def log_batch(self, run_id, metrics=(), params=(), tags=()):
        if not self.calls_left:
            raise ConnectionError("away")
        self.calls_left -= 1
        self.taken += [m.step for m in metrics]


def put_alternating(writer, others):
    for step, record in enumerate(others):
        writer.put({"kind": "metrics", "run_id": "r", "values": [("a", 1.0, 0, step)]})
        writer.put(record)
    writer.flush(250)


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
    writer = BackgroundWriter(client, tmp_path)
    other = {"kind": "params", "run_id": "r", "values": {"x": "2"}}
    with pytest.warns(UserWarning, match="cannot take a record of params"):
        put_alternating(writer, [other, other])
    assert client.taken == [0, 1]
    assert not (tmp_path / "mlflow-spool.jsonl").exists()
    assert len((tmp_path / "mlflow-rejected.jsonl").read_text().splitlines()) == 2


class NoFiles:
    """A client whose artifact store is away until it is `open`, while the tracking server is there."""

    def __init__(self):
        self.taken = []
        self.open = False

    def log_batch(self, run_id, metrics=(), params=(), tags=()):
        self.taken += [m.step for m in metrics]

    def log_text(self, run_id, text, path):
        if not self.open:
            raise ConnectionError("no bucket")
        self.taken.append(text)


def test_a_lost_artifact_store_does_not_hold_back_metrics(tmp_path):
    client = NoFiles()
    writer = BackgroundWriter(client, tmp_path)
    notes = [{"kind": "text", "run_id": "r", "text": f"note {step}", "path": "x.md"} for step in range(2)]
    with pytest.warns(UserWarning, match="MLflow does not take files"):
        put_alternating(writer, notes)
    assert client.taken == [0, 1]
    assert (tmp_path / "mlflow-files.jsonl").read_text().count('"text": "note') == 2
    client.open = True
    writer.flush(250)
    assert client.taken == [0, 1, "note 0", "note 1"]
    assert not (tmp_path / "mlflow-spool.jsonl").exists()


def test_a_server_that_is_away_is_told_as_that_where_files_are_the_first_to_fail(tmp_path):
    def probe():
        raise ValueError("no answer")

    writer = BackgroundWriter(NoFiles(), tmp_path, probe=probe)
    writer.put({"kind": "text", "run_id": "r", "text": "note", "path": "x.md"})
    with pytest.warns(UserWarning, match="MLflow store is away; training goes on"):
        writer.flush(100)


def test_metrics_are_batched_below_the_limit_and_in_order():
    records = [{"kind": "metrics", "run_id": "r", "values": [("a", 0.0, 0, i)] * 7} for i in range(300)]
    status = {"kind": "status", "run_id": "r", "status": "FINISHED"}
    lines = [(record, end) for end, record in enumerate([*records, status, records[0]], start=1)]
    sent = list(batches(lines))
    assert [[len(r["values"]) if "values" in r else 0 for r in found] for found, _ in sent] == [
        [METRICS_PER_CALL - METRICS_PER_CALL % 7]
    ] * 2 + [[308], [0], [7]]
    assert [end for _, end in sent] == [128, 256, 300, 301, 302]  # each batch ends where its last line does
