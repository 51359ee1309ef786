"""MLflow's own server on loopback, forked off a process that has imported it: there within a second."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

from forked import HERE, PATIENCE

DELAY = 5.0
"""Seconds of a slow way to a server, for each request."""


class Servers:
    """Starts servers; all that are left end with it."""

    def __init__(self) -> None:
        command = [sys.executable, "-W", "ignore", "-c", "import mlflow_servers; mlflow_servers.serve()"]
        environment = os.environ | {"PYTHONPATH": str(HERE), "MLFLOW_DISABLE_TELEMETRY": "true"}
        environment |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        pipe = subprocess.PIPE
        self.parent = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment)
        self.started: list[int] = []

    def start(self, database: Path, port: int) -> int:
        """Process of a server that answers at a port, and keeps runs in a database, and files beside it."""
        assert self.parent.stdin is not None
        assert self.parent.stdout is not None
        variables = {
            "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{database}",
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(database.with_name("artifacts")),
        }
        self.parent.stdin.write(json.dumps([port, variables]).encode() + b"\n")
        self.parent.stdin.flush()
        process = int(self.parent.stdout.readline())
        self.started.append(process)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            except OSError:  # not yet
                time.sleep(0.05)
            else:
                return process
        raise TimeoutError(f"no MLflow server answers at port {port}")

    def close(self) -> None:
        """End all servers, stopped ones, too."""
        assert self.parent.stdin is not None
        for process in self.started:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:  # a test has ended it
                continue
        self.parent.stdin.close()
        self.parent.wait()


def serve() -> None:
    """Fork off a server for each line that comes, and print its number."""
    import uvicorn  # before MLflow's server, which looks whether it is one
    from mlflow.server.fastapi_app import app

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    for line in sys.stdin:
        port, variables = json.loads(line)
        number = os.fork()
        if number == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.environ.update(variables)
            uvicorn.run(app, host="127.0.0.1", port=port, log_level="critical")
            os._exit(0)
        print(number, flush=True)


class Way:
    """A way to a server, at a port of its own, that is `slow` or not: then each request arrives seconds later."""

    def __init__(self, to: int) -> None:
        self.to = to
        self.slow = False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near = self.listener.accept()[0]
            except OSError:  # closed
                return
            threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(("127.0.0.1", self.to))
        except OSError:
            near.close()
            return
        answered = threading.Event()
        answered.set()
        threading.Thread(target=self._pass, args=(far, near, answered, False), daemon=True).start()
        self._pass(near, far, answered, True)

    def _pass(self, source: socket.socket, sink: socket.socket, answered: threading.Event, asks: bool) -> None:
        """Pass on what comes; the first part of a request waits."""
        try:
            while data := source.recv(1 << 16):
                if asks and answered.is_set():
                    answered.clear()
                    time.sleep(DELAY * self.slow)
                elif not asks:
                    answered.set()
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:  # the other end is gone
            source.close()
            sink.close()

    def close(self) -> None:
        """Let nobody in any more."""
        self.listener.close()
