"""Turns of members in other processes: each is taken once, returns come back in order, and errors are told once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from ranks import run_on_ranks

import commands.turn_ranks
import commands.turn_takers
import datamodules.played.ray_start
from commands.turn_ranks import LAUNCHED, Ranks
from commands.turn_takers import taking_turns
from commands.turns import Turn
from modules.agent.evolution import Returns
from modules.trust.names import is_trusted, trusting


def fake_take(turn: Turn) -> Returns:
    """Returns that tell the folder and the arguments; a turn may be refused."""
    if turn.arguments == ["refused"]:
        raise ValueError(f"{turn.folder.name} is refused")
    return Returns(float(turn.folder.name), float(len(turn.arguments)), 3)


def take_trusting(turn: Turn) -> Returns:
    """Returns that tell whether somebody's class is trusted in this process, and another one's."""
    return Returns(float(is_trusted("somebody.rooms.Room")), float(is_trusted("others.Room")), 1)


def turns(count: int, *refused: int) -> list[Turn]:
    return [Turn(Path(f"x/{n}"), ["refused"] if n in refused else ["a"] * n) for n in range(count)]


def expected(count: int) -> list[Returns]:
    return [Returns(float(n), float(n), 3) for n in range(count)]


@pytest.fixture(autouse=True)
def faked(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (commands.turn_ranks, commands.turn_takers):
        monkeypatch.setattr(module, "take", fake_take)
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)


def test_one_process_takes_them_one_after_another() -> None:
    with taking_turns(1, None) as take_all:
        assert take_all is not None
        assert take_all(turns(4)) == expected(4)
        with pytest.raises(ValueError, match="2 is refused"):
            take_all(turns(4, 2))


# ---------------------------------------------------------------------------------------------- processes of a launcher
@pytest.fixture
def first() -> Iterator[Ranks]:
    """The first of three processes, here threads, the others of which serve it."""
    store = dist.HashStore()
    ranks = [Ranks(store, rank, 3) for rank in range(3)]

    def serve(served: Ranks) -> None:
        served.serve()
        served.end()

    threads = [threading.Thread(target=serve, args=(served,), daemon=True) for served in ranks[1:]]
    for thread in threads:
        thread.start()
    yield ranks[0]
    ranks[0].end()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_processes_share_the_turns_round_by_round(first: Ranks, count: int) -> None:
    for _ in range(3):
        assert first.take_all(turns(count)) == expected(count)


@pytest.mark.parametrize("refused", [0, 1, 5])
def test_a_turn_that_is_refused_anywhere_is_told_by_the_first_process(first: Ranks, refused: int) -> None:
    assert first.take_all(turns(6)) == expected(6)
    with pytest.raises(ValueError, match=f"^{refused} is refused$"):
        first.take_all(turns(6, refused))


def shared(rank: int, port: int) -> Any:
    """One of two processes that a launcher has started; members see nothing of that."""
    with pytest.MonkeyPatch.context() as patched:
        told = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
        for name, value in told.items():
            patched.setenv(name, str(value))
        seen: list[str] = []

        def take(turn: Turn) -> Returns:
            seen.append(turn.folder.name)
            assert not commands.turn_ranks.launched()
            return fake_take(turn)

        patched.setattr(commands.turn_ranks, "take", take)
        with taking_turns(1, None) as take_all:
            found = None if take_all is None else [take_all(turns(5)) for _ in range(2)]
        assert commands.turn_ranks.launched()
        return found, seen


def test_processes_meet_as_their_launcher_says(tmp_path: Path, unused_port: Callable[[], int]) -> None:
    (found, mine), (nothing, others) = run_on_ranks(2, tmp_path, shared, unused_port())
    assert found == [expected(5)] * 2
    assert nothing is None
    assert mine == ["0", "2", "4"] * 2
    assert others == ["1", "3"] * 2


@pytest.fixture
def unused_port() -> Callable[[], int]:
    import socket

    def port() -> int:
        with socket.socket() as opened:
            opened.bind(("localhost", 0))
            number: int = opened.getsockname()[1]
            return number

    return port


# ------------------------------------------------------------------------------------------------------------- mistakes
@pytest.mark.long
@pytest.mark.timeout(300)
def test_other_processes_trust_whom_the_user_trusts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands.turn_takers, "take", take_trusting)
    with trusting(["somebody.rooms"]), taking_turns(2, None) as take_all:
        assert take_all is not None
        assert take_all(turns(2)) == [Returns(1.0, 0.0, 1)] * 2


def test_two_ways_at_once_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(ValueError, match="are three ways to train members at the same time: take one"),
        taking_turns(2, 2),
    ):
        pass
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="take one of them"), taking_turns(2, None):
        pass
    with pytest.raises(ValueError, match=r"WORLD_SIZE is 2 and RANK is not set: .* by torchrun"), taking_turns(1, None):
        pass


def test_ray_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datamodules.played.ray_start.importlib.util, "find_spec", lambda name: None)
    with (
        pytest.raises(ValueError, match=r"ray_workers needs Ray, which is not installed: pip install -e '\.\[ray\]'"),
        taking_turns(1, 2),
    ):
        pass


# ------------------------------------------------------------------------------------------------------------------ Ray
@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_cluster_takes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    turn_ray = pytest.importorskip("commands.turn_ray")

    def in_folder(turn: Turn) -> Returns:  # sent by its code, since workers cannot import this file
        if turn.arguments == ["refused"]:
            raise ValueError(f"{turn.folder.name} is refused")
        assert Path.cwd() == tmp_path
        return Returns(float(turn.folder.name), float(len(turn.arguments)), 3)

    monkeypatch.setattr(turn_ray, "take", in_folder)
    monkeypatch.chdir(tmp_path)
    ray.init(num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False)
    try:
        with taking_turns(1, 2) as take_all:
            assert take_all is not None
            for _ in range(2):
                assert take_all(turns(5)) == expected(5)
            with pytest.raises(ValueError, match=r"^3 is refused$"):
                take_all(turns(5, 3))
        with pytest.raises(ValueError, match="ray_workers: 3 are more than the 2 processors"), taking_turns(1, 3):
            pass
        monkeypatch.setattr(turn_ray.os, "getcwd", lambda: "/not/there")
        with taking_turns(1, 1) as take_all:
            assert take_all is not None
            with pytest.raises(ValueError, match=r"a machine of the Ray cluster has no folder /not/there: .* share"):
                take_all(turns(1))
        assert ray.is_initialized()  # by whom it was before
    finally:
        ray.shutdown()
