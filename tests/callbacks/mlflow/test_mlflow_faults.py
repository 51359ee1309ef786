"""A database, or a folder of artifacts, that this machine's disk does not take: told as that, and nothing is lost."""

from __future__ import annotations

import errno
import os
import re
import resource
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from mlflow import MlflowClient
from sqlalchemy import Engine, event

from callbacks.mlflow.faults import RemovedError
from callbacks.mlflow.store import check_reachable, open_store, store_fault
from callbacks.mlflow.writer import BackgroundWriter


def points(first: int, count: int) -> list[tuple[str, float, int, int]]:
    """Points of one metric at steps from the first one on."""
    return [("toy/loss", 1.0, 0, step) for step in range(first, first + count)]


class Run:
    """A run in a database of its own, which has 900 points; its spool is in another folder."""

    def __init__(self, folder: Path) -> None:
        self.database, self.spool = folder / "store/mlflow.db", folder / "run/mlflow-spool.jsonl"
        self.spool.parent.mkdir()
        self.uri = f"sqlite:///{self.database}"
        client: MlflowClient = open_store(self.uri)
        self.id = client.create_run("0").info.run_id
        self.writer = BackgroundWriter(
            client, self.spool.parent, probe=partial(check_reachable, self.uri), fault=partial(store_fault, self.uri)
        )
        self.put(0)
        assert self.writer.empty()

    def put(self, first: int) -> None:
        """Put and try to send 900 points."""
        self.writer.put({"kind": "metrics", "run_id": self.id, "values": points(first, 900)})
        assert self.writer.flush(250)

    def steps(self) -> list[int]:
        """Steps of the points that the database has."""
        with closing(sqlite3.connect(self.database)) as database:
            return [step for (step,) in database.execute("select step from metrics order by step")]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


@pytest.fixture
def tell() -> Iterator[Callable[[str], None]]:
    """Tells all connections of MLflow to databases something, from their next use on."""
    told: list[str] = []

    def say(connection: sqlite3.Connection, *_: object) -> None:
        for words in told[-1:]:
            connection.execute(words)

    event.listen(Engine, "checkout", say)
    yield told.append
    event.remove(Engine, "checkout", say)


@pytest.mark.parametrize(
    ("ill", "well", "said", "fix"),
    [
        ("max_page_count=1", "max_page_count=1000000", "database or disk is full", "free some space"),
        ("query_only=1", "query_only=0", "attempt to write a readonly database", "let this user write it"),
    ],
)
def test_a_database_that_takes_nothing_is_told_by_its_path_and_gets_all_when_it_does(
    ill: str, well: str, said: str, fix: str, run: Run, tell: Callable[[str], None]
) -> None:
    tell(f"pragma {ill}")
    with pytest.warns(UserWarning, match="training goes on") as warned:
        run.put(900)
    (line,) = [str(warning.message) for warning in warned]
    assert line.startswith(f"MLflow cannot use {run.database} ({said}): ")
    assert f"kept in {run.spool}: {fix}, and they are sent, by `reverie sync`" in line
    assert "server" not in line
    assert len(line) < 400 + 2 * len(str(run.database))
    tell(f"pragma {well}")
    assert run.writer.flush(250)
    assert run.writer.empty()
    assert run.steps() == list(range(1800))


def test_a_file_that_must_not_become_larger_is_told_as_that(run: Run) -> None:
    """SQLite says that the disk is broken, which it is not."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (run.database.stat().st_size, before[1]))
    try:
        with pytest.warns(UserWarning, match=r"\(disk I/O error, File too large\): a file must not .*raise that limit"):
            run.put(900)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert run.writer.flush(250)
    assert run.steps() == list(range(1800))


@pytest.mark.parametrize("said", ["disk I/O error", "attempt to write a readonly database", "unable to open database"])
@pytest.mark.parametrize(
    ("number", "what"),
    [
        (errno.EDQUOT, r"this user has no quota left on the disk at /.*: free some space, or ask for more"),
        (errno.EROFS, r"the disk at /\S* can only be read: mount it for writing"),
        (errno.EACCES, r"this user may not write it or its folder: give the right to"),
        (errno.ENOSPC, r"the disk at /\S* has no room for it: free some space"),
    ],
)
def test_what_sqlite_keeps_to_itself_the_system_says(
    said: str, number: int, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise OSError(number, os.strerror(number))

    database = tmp_path / "mlflow.db"
    database.touch()
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    fault = store_fault(f"sqlite:///{database}", sqlite3.OperationalError(said))
    assert fault is not None
    assert fault.what.startswith(f"MLflow cannot use {database} ({said}, {os.strerror(number)}): ")
    assert re.search(what, f"{fault.what}: {fault.fix}")


def test_a_database_that_was_removed_is_told_as_that(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    for error in (RemovedError(), sqlite3.OperationalError("attempt to write a readonly database")):
        fault = store_fault(f"sqlite:///{database}", error)
        assert fault is not None
        assert fault.what == f"MLflow cannot use {database}: it was removed or replaced, and what it had is lost"
        assert (fault.fix, fault.then) == ("go on with --ckpt_path last", "and they are sent to a new run")


class NoRoom:
    """A client of a server whose artifacts are in a folder of this machine, which is full."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def log_artifact(self, run_id: str, source: str, folder: str | None) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), source, None, str(self.folder / "film.mp4"))


def test_a_full_folder_of_artifacts_is_told_by_what_was_to_be_written_there(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").touch()
    client = NoRoom(tmp_path / "artifacts")
    writer = BackgroundWriter(client, tmp_path, fault=partial(store_fault, "http://somewhere"))
    writer.put({"kind": "file", "run_id": "r", "source": str(tmp_path / "film.mp4"), "folder": None})
    place = rf"{tmp_path}/artifacts/film\.mp4"
    with pytest.warns(UserWarning, match=rf"^MLflow cannot use {place} \(No space .* names of its files are kept"):
        writer.flush(250)


def test_a_server_that_does_not_answer_is_no_fault_of_a_disk(tmp_path: Path) -> None:
    for error in (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), PermissionError(errno.EPERM, "a firewall")):
        assert store_fault("http://somewhere", error) is None
    assert store_fault(f"sqlite:///{tmp_path}/mlflow.db", ValueError("nothing that SQLite says")) is None


def test_before_a_run_the_same_is_said_with_another_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    said = r"mlflow\.db \(Read-only file system\): the disk at /.* can only be read: mount it .* another tracking_uri$"
    with pytest.raises(ValueError, match=said):
        check_reachable(f"sqlite:///{tmp_path}/mlflow.db")
