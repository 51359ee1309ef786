"""Waiting for stores: for those that live, not for those that give no sign of life, and what is said of them."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing

import pytest
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError
from test_mlflow_servers import NoFiles

from callbacks.mlflow.store import open_store, opened_store, whole_store
from callbacks.mlflow.writer import BackgroundWriter


class Slow:
    """A client that needs longer for each call than a run waits without an answer."""

    def __init__(self):
        self.taken = []

    def log_batch(self, run_id, metrics=(), params=(), tags=()):
        time.sleep(0.8)
        self.taken += [m.step for m in metrics]


def test_at_its_end_a_run_waits_for_a_store_that_lives_and_not_for_another(tmp_path, recwarn):
    asked = []

    def probe():
        asked.append(len(client.taken))
        if len(asked) > 2:
            raise ValueError("no MLflow tracking server answers")

    client = Slow()
    writer = BackgroundWriter(client, tmp_path, probe=probe)
    for step in range(3):
        writer.put({"kind": "metrics", "run_id": "r", "values": [("a", 1.0, 0, step)]})
        writer.put({"kind": "tags", "run_id": "r", "values": {"x": "1"}})  # a call of its own
    began = time.monotonic()
    assert not writer.flush(250)
    assert time.monotonic() - began < 100
    assert len(asked) == 3
    assert writer.flush(250) is False  # it has died in between, and nobody says so twice
    assert len([w for w in recwarn if "`reverie sync` sends them" in str(w.message)]) == 1


def test_a_server_that_is_away_with_its_files_is_one_line(tmp_path, recwarn):
    writer = BackgroundWriter(NoFiles(), tmp_path)
    writer.put({"kind": "text", "run_id": "r", "text": "note", "path": "x.md"})
    writer.put({"kind": "status", "run_id": "r", "status": "FINISHED"})  # which that client has no call for
    assert writer.flush(250)
    assert not writer.empty()
    assert len([w for w in recwarn if "kept in" in str(w.message)]) == 1


def test_while_somebody_waits_a_server_is_asked_once_and_what_the_user_has_set_holds(tmp_path, monkeypatch):
    names = ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for chosen, within, after in ((None, ["5", "0"], ["30", "1"]), ("77", ["77", "77"], ["77", "77"])):
        for name in names:
            if chosen is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, chosen)
        with opened_store(uri):
            assert [os.environ[name] for name in names] == within
        assert [os.environ.get(name) for name in names] == after


def test_a_database_that_is_held_or_full_is_not_called_damaged(tmp_path, monkeypatch):
    path = tmp_path / "mlflow.db"
    open_store(f"sqlite:///{path}")
    monkeypatch.setattr("callbacks.mlflow.store.ANSWER_SECONDS", 0.1)
    with closing(sqlite3.connect(path)) as other:
        other.execute("begin immediate")
        with pytest.raises(ValueError, match=r"mlflow\.db \(database is locked\): another program holds it"):
            open_store(f"sqlite:///{path}")
        other.rollback()
    said = "(sqlite3.OperationalError) database or disk is full"
    with pytest.raises(ValueError, match="no room for it: free some space"), whole_store(f"sqlite:///{path}"):
        raise MlflowException(said) from OperationalError("insert", {}, sqlite3.OperationalError(said))
    with pytest.raises(ValueError, match="cannot be used: Invalid experiment name"), whole_store(f"sqlite:///{path}"):
        raise MlflowException.invalid_parameter_value("Invalid experiment name")
