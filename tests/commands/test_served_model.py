"""`mlflow models serve` on this machine answers with the action, and the next state, of the checkpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ports import free_port
from published_runs import recurrent, seen

import reverie
from commands.publish import publish


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A run with a recurrent agent of discrete actions, and the address at which its model is served."""
    run = tmp_path / "experiment/run"
    recurrent(run / "checkpoints/best.ckpt")
    publish(str(run))
    port = free_port()
    beside = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--model-uri", str(run / "models/best")]
    with (tmp_path / "said").open("wb") as said:
        server = subprocess.Popen(
            command, env=os.environ | beside, cwd=tmp_path, stdout=said, stderr=said, start_new_session=True
        )
    try:
        wait(server, f"http://127.0.0.1:{port}/ping", tmp_path / "said")
        yield run, f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def wait(server: subprocess.Popen[bytes], address: str, said: Path) -> None:
    """Return when the server answers; it may take minutes on a busy machine."""
    for _ in range(900):
        assert server.poll() is None, said.read_text()
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError(said.read_text())


def ask(address: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    body = json.dumps({"inputs": {name: x.tolist() for name, x in inputs.items()}}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        told: dict[str, Any] = json.loads(answer.read())["predictions"]
    return {name: np.array(x) for name, x in told.items()}


@pytest.mark.long
def test_a_served_model_answers_with_the_checkpoints_actions(served: tuple[Path, str]) -> None:
    run, address = served
    example = json.loads((run / "models/best/serving_input_example.json").read_text())["inputs"]
    fresh = {name: np.array(x) for name, x in example.items() if name.startswith("state/")}
    policy, state, carried = reverie.load(run), None, {name: np.repeat(x, 2, 0) for name, x in fresh.items()}
    for t in range(3):
        batch, reward = seen(2, t), np.array([0.5, -1.0], np.float32) * t
        expected, state = policy.act(batch, state, reward)
        given = {f"observation/{key}": x for key, x in batch.items()} | {"reward": reward} | carried
        answer = ask(address, given)
        assert (answer["action"] == expected).all()
        carried = {name: answer[f"next_{name}"] for name in fresh}
        for name, x in state.items():
            assert np.allclose(carried[name], x, rtol=0.0, atol=1e-5)
    with pytest.raises(urllib.error.HTTPError, match="400"):
        ask(address, {"observation/speed": np.zeros((2, 3))})
