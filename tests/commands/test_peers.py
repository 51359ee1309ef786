"""The watch over the other processes of a run: who is missed, when, and what is said."""

from __future__ import annotations

import multiprocessing
import signal
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist
from ranks import run_on_ranks

import commands.peers
from commands.peers import Peers, killed_for_memory, status_by_number
from commands.strategy import LONGEST_WAIT


class Child:
    """A process that this one has started, with the exit status that a test gives."""

    def __init__(self, status: int | None = None) -> None:
        self.status = status
        self.killed = False

    def poll(self) -> int | None:
        return self.status

    def wait(self, timeout: float) -> int:
        return self.status or 0

    def kill(self) -> None:
        self.killed = True


def watching(*children: Child, seconds: float = 0.3) -> Peers:
    peers = Peers(seconds=seconds)
    peers.watch_children(children, 1)
    peers.world = len(children) + 1
    return peers


def test_a_child_that_is_killed_interrupts_an_evaluation_and_its_signal_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    fine, child = Child(), Child()
    peers = watching(fine, child)
    peers.write_below(tmp_path, named=False)
    child.status = -signal.SIGBUS
    with pytest.raises(SystemExit) as leaving, peers.named():
        time.sleep(200)
    assert leaving.value.code == 1
    assert capsys.readouterr().err.splitlines() == [
        "reverie: error: process 2 of 3 was killed by SIGBUS",
        "reverie: error: process 0 of 3 ends, as process 2 has ended; to start anew: reverie fit --config config.yaml",
    ]
    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL


def test_a_child_that_ends_well_is_not_missed() -> None:
    peers = watching(Child(0), seconds=0.0)
    with peers.named():
        time.sleep(3 * commands.peers.LOOK_EVERY)
    assert not peers.lost


def stuck() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])  # as in a call that never comes back to Python
    with watching(Child(3), seconds=0.1).named():
        time.sleep(200)


def test_what_cannot_be_interrupted_is_ended(capfd: pytest.CaptureFixture[str]) -> None:
    process = multiprocessing.get_context("fork").Process(target=stuck)
    process.start()
    process.join(100)
    assert process.exitcode == 1
    assert capfd.readouterr().err == "reverie: error: process 0 of 2 ends, as process 1 has ended\n"


def test_lack_of_memory_is_said_where_the_system_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert killed_for_memory() >= 0
    peers = Peers()
    peers.lost = [(1, -signal.SIGKILL)]
    assert peers.lines()[0] == "process 1 was killed by SIGKILL"
    monkeypatch.setattr(commands.peers, "killed_for_memory", lambda: killed_for_memory() + 1)
    assert peers.lines()[0].startswith("process 1 was killed by SIGKILL, for lack of memory: ")
    peers.lost = [(0, commands.peers.UNKNOWN)]
    assert peers.lines() == ["process 0 ends, as process 0 has ended, and the system has ended one for lack of memory"]


def test_a_process_of_somebody_else_is_seen_to_end() -> None:
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(200,))
    process.start()
    assert process.pid is not None
    status = status_by_number(process.pid)
    assert status() is None
    process.kill()
    process.join()
    assert status() == commands.peers.UNKNOWN
    assert status_by_number(process.pid)() == commands.peers.UNKNOWN


def waits(rank: int) -> bool:
    dist.set_timeout(timedelta(seconds=1))
    dist.set_timeout(LONGEST_WAIT)  # as a run does when all processes have come
    if rank == 0:
        time.sleep(3)  # as an evaluation
    dist.barrier()
    return True


@pytest.mark.long
def test_processes_wait_for_a_long_evaluation(tmp_path: Path) -> None:
    assert timedelta(days=1) < LONGEST_WAIT
    assert run_on_ranks(2, tmp_path, waits) == [True, True]
