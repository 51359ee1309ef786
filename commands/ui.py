"""`reverie ui`: MLflow's pages of the runs in a folder, on this machine only."""

from __future__ import annotations

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import IO, NamedTuple

from callbacks.mlflow.pages import EXPERIMENTS, run_page
from callbacks.mlflow.store import RUN_FILE, SQLITE
from commands.function_command import run_function
from modules.arguments.checks import check_ranges
from modules.trust.files import read_json_object
from modules.trust.names import short

DATABASE = "mlflow.db"
START_SECONDS = 120.0
ANSWER_SECONDS = 4.0


class Store(NamedTuple):
    """Where runs are logged.

    Attributes:
        uri: address of the tracking store.
        page: part of the address behind the server's that shows the experiments, or one run.
    """

    uri: str
    page: str


def ui(folder: str = ".", tracking_uri: str | None = None, port: int = 5000) -> None:
    """Show the runs of a folder in MLflow's pages, on this machine only, until Ctrl-C.

    Args:
        folder: a run's folder, whose page is named; or a folder with runs, or below one. The store is that of the run,
            else the mlflow.db in the folder or the nearest one above it, else that of the newest run below it.
        tracking_uri: the store itself, such as sqlite:////path/to/mlflow.db; by default $MLFLOW_TRACKING_URI, if the
            folder is left out, else the folder's.
        port: port of 127.0.0.1 that the pages are served on.
    """
    if tracking_uri is None and folder == ".":
        tracking_uri = os.environ.get("MLFLOW_TRACKING_URI")
    store = find_store(Path(folder)) if tracking_uri is None else Store(tracking_uri, EXPERIMENTS)
    if store.uri.startswith(("http://", "https://")):
        print(f"a server has these runs: {store.uri.rstrip('/')}/{store.page}")
        return
    check_port(port)
    print(f"starting MLflow's server for {store.uri} ...", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is ended too
    with tempfile.TemporaryFile() as said:
        server = start_server(store.uri, port, said)
        try:
            wait_until_it_answers(server, port, said)
            print(f"http://127.0.0.1:{port}/{store.page}\n(on this machine only; Ctrl-C stops)", flush=True)
            server.wait()
        except KeyboardInterrupt:
            print("stopped")
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGTERM)
                server.wait()


def main(argv: list[str]) -> None:
    """`reverie ui ...`."""
    run_function(ui, argv)


def find_store(folder: Path) -> Store:
    """The store of the runs in a folder, see `ui`.

    Raises:
        ValueError: there is no such folder, or nothing was logged there.
    """
    if not folder.is_dir():
        raise ValueError(f"no folder at {folder}")
    if (folder / RUN_FILE).is_file():
        return _store_of_run(folder / RUN_FILE)
    here = folder.resolve()
    for place in (here, *here.parents):
        if (place / DATABASE).is_file():
            return Store(f"sqlite:///{place / DATABASE}", EXPERIMENTS)
    runs = [path for depth in ("*", "*/*", "*/*/*") for path in here.glob(f"{depth}/{RUN_FILE}")]
    if runs:
        newest = max(runs, key=lambda path: path.stat().st_mtime)
        return _store_of_run(newest)._replace(page=EXPERIMENTS)
    raise ValueError(
        f"no runs were logged in {here} or above it: `reverie fit` makes some; give --folder RUN_FOLDER, or "
        "--tracking_uri sqlite:////path/to/mlflow.db"
    )


def _store_of_run(file: Path) -> Store:
    """The store that a run's folder names, which may be from anyone.

    Raises:
        ValueError: it names none, or another than a server or a database with runs of MLflow's that is there.
    """
    try:
        run = read_json_object(file)
        uri, *ids = run["tracking_uri"], run["experiment_id"], run["run_id"]
    except (ValueError, KeyError) as error:
        raise ValueError(f"{file} names no run; give --tracking_uri instead") from error
    if not all(isinstance(id, str) and re.fullmatch(r"[\w-]{1,100}", id) for id in ids):
        raise ValueError(f"{file} names no run, but {short(ids)}; give --tracking_uri instead")
    is_server = isinstance(uri, str) and re.fullmatch(r"https?://[!-~]{1,300}", uri) is not None
    if not is_server and not (isinstance(uri, str) and uri.startswith(SQLITE) and holds_runs(uri.removeprefix(SQLITE))):
        raise ValueError(
            f"{file} names the store {short(uri, 150)}, which is neither a server nor a database of MLflow's that is "
            "there; give --tracking_uri, if you want it"
        )
    return Store(uri, run_page(*ids))


def holds_runs(path: str) -> bool:
    """Whether there is an SQLite database at a path, absolute, with tables of MLflow's; nothing is made or written."""
    if not path.isprintable() or set(path) & set("?#%") or not os.path.isabs(path) or not os.path.isfile(path):
        return False
    try:
        # As it lies there: whoever reads it otherwise waits for those who write, and undoes what a killed one began.
        with closing(sqlite3.connect(f"{Path(path).as_uri()}?mode=ro&immutable=1", uri=True)) as database:
            tables = database.execute("select name from sqlite_master where name in ('experiments', 'runs')").fetchall()
    except sqlite3.Error:
        return False
    return len(tables) == 2


def check_port(port: int) -> None:
    """Refuse a port that something listens on, or that this user may not listen on.

    Raises:
        ValueError: it names the port and the way out.
    """
    check_ranges(("port", port, 1, 65535))
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ValueError(
                f"port {port} of 127.0.0.1 is not free ({error.strerror}); give --port {port + 1}"
            ) from error


def start_server(uri: str, port: int, said: IO[bytes]) -> subprocess.Popen[bytes]:
    """MLflow's server as the head of a process group of its own; what it says goes to the file `said`."""
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
    settings = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": uri,
    }
    command += ["--backend-store-uri", uri, "--uvicorn-opts", "--log-level=error"]
    return subprocess.Popen(command, env=os.environ | settings, stdout=said, stderr=said, start_new_session=True)


def wait_until_it_answers(server: subprocess.Popen[bytes], port: int, said: IO[bytes]) -> None:
    """Return when the server answers.

    Raises:
        ValueError: it ended, or does not answer for two minutes.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines() or ["no message"]
            reason = next((line for line in reversed(lines) if "Error" in line), lines[-1])
            raise ValueError(f"MLflow's server ended with status {server.returncode}: {reason[:300]}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=ANSWER_SECONDS).close()
        except OSError:  # not yet
            time.sleep(0.2)
        else:
            return
    raise ValueError(f"MLflow's server does not answer on port {port} after {START_SECONDS:.0f} s")
