"""Processes that tests fork off behave as those that a user starts."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from forked import ROOT, fork, run_reverie


def end(how: str) -> None:
    if how == "status":
        sys.exit(3)
    if how == "text":
        sys.exit("bye")
    if how == "error":
        raise ValueError
    if how == "hang":
        time.sleep(1000)


@pytest.mark.parametrize(("how", "status"), [("", 0), ("status", 3), ("text", 1), ("error", 1)])
def test_exit_status(how: str, status: int) -> None:
    assert fork(end, how).wait(60) == status


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_signal_ends_a_process_that_hangs(number: int) -> None:
    process = fork(end, "hang")
    assert process.wait(0.1) is None
    os.kill(process.pid, number)
    assert process.wait(60) == -number


def test_streams_and_mistakes_of_the_command_line(tmp_path: Path) -> None:
    here = {"PYTHONPATH": str(ROOT)}
    done = run_reverie(["--version"], tmp_path, here)
    assert (done.returncode, done.stdout.split()[0], done.stderr) == (0, "reverie", "")
    done = run_reverie(["fitt"], tmp_path, here)
    assert (done.returncode, done.stdout) == (2, "")
    assert "unknown subcommand" in done.stderr
    assert not list(tmp_path.iterdir())
