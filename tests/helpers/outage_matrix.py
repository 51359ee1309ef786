"""Runs whose store of MLflow fails in one of nine ways, at one of four moments, and all that becomes of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from multiprocessing.connection import Client, Listener
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from fit_command import write_dataset
from forked import HERE, ROOT, run_reverie
from mlflow_servers import Servers, Way
from ports import free_port

from callbacks.mlflow.mlflow_private import make_tables

UPDATES = 40
Point = tuple[str, str, int]
"""Run, metric and step."""


class Result(NamedTuple):
    """A run whose store failed, and the same command or `reverie sync` afterwards.

    Attributes:
        refused: whether the run did not begin.
        lines: what it said of the store.
        seconds: how long training waited for its logger.
        missing: points of a run without an outage that are not there in the end, those left out that were deleted.
        twice: points that are there more than once.
    """

    refused: bool
    lines: list[str]
    seconds: float
    missing: list[Point]
    twice: list[Point]


class Store:
    """A database in a file, in a folder of its own. It fails by `fail` and is well again after `mend`.

    Args:
        servers: makes servers.
        folder: of the database.
        tables: a database without runs.
    """

    def __init__(self, servers: Servers, folder: Path, tables: Path) -> None:
        self.folder = folder
        self.database = folder / "mlflow.db"
        self.uri = f"sqlite:///{self.database}"
        self.variables: dict[str, str] = {}

    def fail(self) -> None:
        """Nothing fails."""

    def mend(self) -> None:
        """Nothing has failed."""

    def points(self) -> Counter[Point]:
        """How often each point is in the database."""
        # To be written, too: what a killed server was writing is undone by whoever reads first.
        with closing(sqlite3.connect(f"file:{self.database}?mode=rw", uri=True)) as database:
            return Counter(database.execute("select run_uuid, key, step from metrics").fetchall())


class Made(Store):
    """An earlier run has made the database."""

    def __init__(self, servers: Servers, folder: Path, tables: Path) -> None:
        super().__init__(servers, folder, tables)
        shutil.copy(tables, self.database)


class Locked(Made):
    """Another program writes and does not end."""

    def fail(self) -> None:
        self.holder = sqlite3.connect(self.database, check_same_thread=False)
        self.holder.execute("begin immediate")

    def mend(self) -> None:
        self.holder.rollback()
        self.holder.close()


class Full(Made):
    """Its disk has no room."""

    def __init__(self, servers: Servers, folder: Path, tables: Path) -> None:
        super().__init__(servers, folder, tables)
        self.full = folder.parent / "full"
        self.variables = {"FULL_ROOT": str(folder), "FULL_WHEN": str(self.full)}

    def fail(self) -> None:
        self.full.touch()

    def mend(self) -> None:
        self.full.unlink()


class Deleted(Made):
    """Somebody deletes it."""

    def fail(self) -> None:
        self.database.unlink()


class Shared(Made):
    """A second run begins to write to it."""

    def fail(self) -> None:
        self.second = threading.Thread(target=start, args=(self.folder.parent / "second", self))
        self.second.start()

    def mend(self) -> None:
        self.second.join()


class Server(Store):
    """MLflow's server is killed, and started again."""

    def __init__(self, servers: Servers, folder: Path, tables: Path) -> None:
        super().__init__(servers, folder, tables)
        self.servers = servers
        shutil.copy(tables, self.database)
        self.port = free_port()
        self.process = servers.start(self.database, self.port)
        self.uri = f"http://127.0.0.1:{self.port}"

    def fail(self) -> None:
        os.kill(self.process, signal.SIGKILL)

    def mend(self) -> None:
        self.process = self.servers.start(self.database, self.port)


class Frozen(Server):
    """MLflow's server takes connections and never answers."""

    def fail(self) -> None:
        os.kill(self.process, signal.SIGSTOP)

    def mend(self) -> None:
        os.kill(self.process, signal.SIGCONT)


class Slow(Server):
    """MLflow's server needs five seconds for each answer."""

    def __init__(self, servers: Servers, folder: Path, tables: Path) -> None:
        super().__init__(servers, folder, tables)
        self.way = Way(self.port)
        self.uri = f"http://127.0.0.1:{self.way.port}"

    def fail(self) -> None:
        self.way.slow = True

    def mend(self) -> None:
        self.way.slow = False


class Outage(NamedTuple):
    """A way to fail.

    Attributes:
        store: what fails.
        moments: when: `before` the run, at its `start`, at update `12`, at its `end`.
        back: when it is well again by itself, by when it failed.
    """

    store: type[Store]
    moments: tuple[str, ...] = ("before", "start", "12", "end")
    back: Mapping[str, str] = MappingProxyType({})


OUTAGES = {
    "absent": Outage(Server, ("before",)),
    "dies": Outage(Server, ("start", "12", "end")),
    "revives": Outage(Server, ("start", "12"), {"start": "12", "12": "22"}),
    "frozen": Outage(Frozen),
    "5 s per answer": Outage(Slow),
    "locked SQLite": Outage(Locked),
    "full disk": Outage(Full),
    "database deleted": Outage(Deleted),
    "two runs on one SQLite": Outage(Shared),
}
CELLS = [(name, moment) for name, outage in OUTAGES.items() for moment in outage.moments]


def reverie(folder: Path, store: Store, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command about the run of a folder."""
    environment = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)]),
        "REVERIE_CACHE": str(folder / "cache"),
        "REVERIE_RUN_DIR": str(folder / "run"),
        "OMP_NUM_THREADS": "1",
    }
    return run_reverie(arguments, folder, environment | store.variables)


def start(folder: Path, store: Store, address: str = "") -> subprocess.CompletedProcess[str]:
    """Start or continue the run of a folder, which tells its moments to an address."""
    folder.mkdir(exist_ok=True)
    if not (folder / "tiny.npz").exists():
        write_dataset(folder / "tiny.npz")
    moments = {"class_path": "outages.Moments", "init_args": {"address": address, "file": str(folder / "seconds.json")}}
    return reverie(
        folder, store, "fit", "--model", "ATAC", "--model.hidden", "[16,16]", "--model.warm_start.updates", "5",
        "--data", "OfflineDataModule", "--data.source", "tiny.npz", "--data.batch_size", "32",
        "--data.updates_per_epoch", "10", "--trainer.max_epochs", str(UPDATES // 10), "--trainer.log_every_n_steps",
        "5", "--trainer.logger.tracking_uri", store.uri, "--trainer.callbacks+", json.dumps(moments),
        "--ckpt_path", "last",
    )  # fmt: skip


def play(folder: Path, store: Store, moment: str, back: str | None) -> subprocess.CompletedProcess[str]:
    """A run whose store fails at a moment, and is well again at another one, or not."""
    over = threading.Event()
    with Listener(family="AF_UNIX") as listener:

        def answer() -> None:
            while not over.is_set():
                with listener.accept() as run:
                    reached = run.recv()
                    if reached == moment:
                        store.fail()
                    elif reached == back:
                        store.mend()
                    run.send(None)

        answering = threading.Thread(target=answer)
        answering.start()
        try:
            return start(folder, store, str(listener.address))
        finally:
            over.set()
            with Client(listener.address) as last:
                last.send("over")
                last.recv()
            answering.join()


def said_by(run: subprocess.CompletedProcess[str]) -> set[str]:
    """Lines of a run about anything that is not as it should be."""
    return {line for line in run.stderr.splitlines() if "warning:" in line or "rror" in line}


class Matrix:
    """Runs of one matrix.

    Args:
        folder: takes all files.
        servers: makes servers.
    """

    def __init__(self, folder: Path, servers: Servers) -> None:
        self.folder = folder
        self.servers = servers
        self.tables = folder / "tables.db"
        make_tables(f"sqlite:///{self.tables}")
        store = self.store(Store, "healthy")
        done = start(store.folder.parent, store)
        assert done.returncode == 0, done.stderr
        self.usual = said_by(done)
        found = store.points()
        assert set(found.values()) == {1}
        self.whole = {(key, step) for _, key, step in found}
        self.seconds = self.waited("healthy")

    def store(self, kind: type[Store], name: str) -> Store:
        """A store in a folder of its own."""
        place = self.folder / name / "store"
        place.mkdir(parents=True)
        return kind(self.servers, place, self.tables)

    def waited(self, name: str) -> float:
        """Seconds that the last run in a folder has waited for its logger."""
        seconds: float = json.loads((self.folder / name / "seconds.json").read_text())
        return seconds

    def cell(self, name: str, moment: str) -> Result:
        """A run whose store fails, and all that comes of it."""
        outage = OUTAGES[name]
        place = f"{name}-{moment}".replace(" ", "_")
        folder, store = self.folder / place, self.store(outage.store, place)
        back = outage.back.get(moment)
        if moment == "before":
            store.fail()
        done = play(folder, store, moment, back)
        lines, seconds, refused = sorted(said_by(done) - self.usual), self.waited(place), done.returncode == 2
        assert refused or done.returncode == 0, done.stderr
        # Afterwards: what was refused is started again, what has lost its run goes on, and the rest is sent.
        if back is None:
            store.mend()
        if refused or not store.database.exists():
            again = start(folder, store)
        else:
            again = reverie(folder, store, "sync", "--folder", "run")
        assert again.returncode == 0, again.stderr
        found = store.points()
        deleted = -1
        if isinstance(store, Deleted):
            deleted = {"before": -1, "start": 0, "12": 10, "end": UPDATES}[moment]
        missing = [
            (run, key, step)
            for run in {run for run, _, _ in found}
            for key, step in self.whole
            if step > deleted and not found[run, key, step]
        ]
        twice = [point for point, times in found.items() if times > 1]
        return Result(refused, lines, seconds, missing, twice)
