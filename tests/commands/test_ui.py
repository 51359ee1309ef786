"""`reverie ui`: the store of a folder, the page about training, and a server that leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest
from ports import free_port

from callbacks.mlflow.pages import EXPERIMENTS
from commands.ui import check_port, find_store, ui

ROOT = Path(__file__).parents[2]
RUN = {"run_id": "abc", "experiment_id": "7", "tracking_uri": "http://127.0.0.1:9", "children": {}}


def write_run(folder: Path, **changed: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "mlflow_run.json").write_text(json.dumps(RUN | changed))
    return folder


def write_database(path: Path, tables: tuple[str, ...] = ("experiments", "runs")) -> str:
    """As much of a store of MLflow's as is looked at; returns its address."""
    with closing(sqlite3.connect(path)) as database:
        for table in tables:
            database.execute(f"create table {table} (name text)")
    return f"sqlite:///{path}"


def test_the_folder_of_a_run_names_its_store_and_its_page(tmp_path: Path) -> None:
    uri = write_database(tmp_path / "elsewhere.db")
    store = find_store(write_run(tmp_path / "runs/x/then", tracking_uri=uri))
    assert store.uri == uri
    assert store.page == "#/experiments/7/runs/abc/model-metrics?workflowType=machine_learning"


def test_a_database_that_is_being_written_or_was_when_its_writer_was_killed_names_a_store(tmp_path: Path) -> None:
    """A lock keeps readers out, and a journal that is left has to be undone by whoever may write."""
    busy, killed = tmp_path / "busy", tmp_path / "killed"
    for folder in (busy, killed):
        folder.mkdir()
    uri = write_database(busy / "mlflow.db")
    with closing(sqlite3.connect(busy / "mlflow.db", isolation_level=None)) as database:
        for order in ("pragma cache_size = 1", "pragma cache_spill = 1", "begin exclusive"):
            database.execute(order)
        database.executemany("insert into runs values (?)", [("x" * 1000,)] * 200)  # more than is kept in memory
        begun = time.monotonic()
        assert find_store(write_run(busy / "runs/x/then", tracking_uri=uri)).uri == uri
        assert time.monotonic() - begun < 2.0
        for name in ("mlflow.db", "mlflow.db-journal"):
            shutil.copyfile(busy / name, killed / name)
    left = (killed / "mlflow.db-journal").read_bytes()
    reader = closing(sqlite3.connect(f"file:{killed}/mlflow.db?mode=ro", uri=True))
    with reader as database, pytest.raises(sqlite3.OperationalError, match="readonly"):
        database.execute("select name from sqlite_master").fetchall()
    uri = f"sqlite:///{killed}/mlflow.db"
    assert find_store(write_run(killed / "runs/x/then", tracking_uri=uri)).uri == uri
    assert (killed / "mlflow.db-journal").read_bytes() == left


def test_the_nearest_database_above_is_that_of_a_folder(tmp_path: Path) -> None:
    inside = tmp_path / "runs/deep"
    inside.mkdir(parents=True)
    (tmp_path / "mlflow.db").touch()
    assert find_store(inside) == (f"sqlite:///{tmp_path}/mlflow.db", EXPERIMENTS)
    assert "workflowType=machine_learning" in EXPERIMENTS


def test_the_newest_run_below_says_where_runs_are_logged(tmp_path: Path) -> None:
    old = write_run(tmp_path / "runs/a/1", tracking_uri="http://old")
    os.utime(old / "mlflow_run.json", (1, 1))
    write_run(tmp_path / "runs/b/2", tracking_uri="http://new")
    assert find_store(tmp_path) == ("http://new", EXPERIMENTS)


def test_a_folder_of_a_stranger_makes_no_database_and_gives_the_server_no_option(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("SQLite format 3, or not")
    write_database(tmp_path / "cookies.db", ("cookies",))
    write_database(tmp_path / "a?b")
    uris = (f"sqlite:///{tmp_path}/new/mlflow.db", f"sqlite:///{tmp_path}/text.db", f"sqlite:///{tmp_path}/cookies.db")
    others = (f"sqlite:///{tmp_path}/a?b", "sqlite:///", "--gunicorn-opts=x", "http://a\x1b[2J\nb", "file:///etc", 5)
    for n, uri in enumerate((*uris, *others)):
        with pytest.raises(ValueError, match=r"names the store .* give --tracking_uri") as told:
            find_store(write_run(tmp_path / f"{n}", tracking_uri=uri))
        assert str(told.value).isprintable()
    assert not (tmp_path / "new").exists()
    for n, id in enumerate(("../x", "\x1b[2J", 7, "")):
        with pytest.raises(ValueError, match="names no run"):
            find_store(write_run(tmp_path / f"id{n}", run_id=id))


def test_a_server_that_has_the_runs_is_named_and_none_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ui(str(write_run(tmp_path / "run", tracking_uri="http://127.0.0.1:9/")))
    assert "http://127.0.0.1:9/#/experiments/7/runs/abc/" in capsys.readouterr().out


def test_mistakes_name_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no folder at .*nowhere"):
        find_store(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no runs were logged in .*--folder.*--tracking_uri"):
        find_store(tmp_path)
    (tmp_path / "mlflow_run.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"mlflow_run\.json names no run"):
        find_store(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ValueError, match=r"not free .*--port"):
            check_port(taken.getsockname()[1])
    with pytest.raises(ValueError, match="port must lie in"):
        check_port(70000)


@pytest.mark.long
def test_the_pages_open_and_ctrl_c_leaves_no_server(tmp_path: Path) -> None:
    port, environment = free_port(), os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "reverie", "ui", "--tracking_uri", f"sqlite:///{tmp_path}/mlflow.db"]
    shown = subprocess.Popen([*command, "--port", str(port)], env=environment, stdout=subprocess.PIPE, text=True)
    assert shown.stdout is not None
    try:
        lines = [shown.stdout.readline() for _ in range(3)]
        assert lines[1].strip() == f"http://127.0.0.1:{port}/{EXPERIMENTS}"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=100) as page:
            assert b"MLflow" in page.read()
    finally:
        shown.send_signal(signal.SIGINT)
        assert shown.wait(120) == 0
    check_port(port)  # nobody listens any more
