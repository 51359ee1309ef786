"""The calls by which files change are found, one by one, and a run that is killed at some of them goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(shutil.which(os.environ.get("CC", "cc")) is None, reason="there is no C compiler")

CHANGES = """
import os, pathlib
place = pathlib.Path("place")
place.mkdir()
(place / "a").write_bytes(bytes(range(100)))
os.replace(place / "a", place / "b")
file = os.open(place / "b", os.O_RDWR)
os.pwrite(file, b"xy", 50)
os.fsync(file)
os.ftruncate(file, 10)
os.link(place / "b", place / "c")
os.unlink(place / "c")
(place.parent / "elsewhere").write_text("not below")
"""
CALLS = [
    "mkdir place", "open place/a", "write place/a", "rename place/b", "write place/b", "sync place/b",
    "truncate place/b", "link place/c", "unlink place/c",
]  # fmt: skip


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("library") / "points.so"
    command = [os.environ.get("CC", "cc"), "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o", str(path)]
    subprocess.run([*command, str(HERE / "points.c"), "-ldl"], check=True)
    return path


def change(library: Path, folder: Path, **settings: str) -> int:
    variables = {"LD_PRELOAD": str(library), "KILL_ROOT": str(folder / "place"), **settings}
    return subprocess.run([sys.executable, "-c", CHANGES], cwd=folder, env=os.environ | variables).returncode


def test_every_call_is_listed_in_its_order(library: Path, tmp_path: Path) -> None:
    assert change(library, tmp_path, KILL_LOG=str(tmp_path / "calls")) == 0
    lines = (tmp_path / "calls").read_text().splitlines()
    assert lines == [f"{i} {call.replace(' ', f' {tmp_path}/')}" for i, call in enumerate(CALLS, 1)]


@pytest.mark.parametrize("at", range(1, len(CALLS) + 1))
def test_a_process_ends_in_front_of_the_call(library: Path, tmp_path: Path, at: int) -> None:
    assert change(library, tmp_path, KILL_AT=str(at)) == -9
    names = sorted(path.name for path in (tmp_path / "place").glob("*"))
    assert names == [[], [], ["a"], ["a"], ["b"], ["b"], ["b"], ["b"], ["b", "c"]][at - 1]
    sizes = [path.stat().st_size for path in (tmp_path / "place").glob("*")]
    assert sizes == [[], [], [0], [100], [100], [100], [100], [10], [10, 10]][at - 1]


def test_a_torn_write_is_done_by_half(library: Path, tmp_path: Path) -> None:
    assert change(library, tmp_path, KILL_AT="3", KILL_TORN="1") == -9
    assert (tmp_path / "place/a").read_bytes() == bytes(range(50))


def test_a_process_past_its_last_call_ends_well(library: Path, tmp_path: Path) -> None:
    assert change(library, tmp_path, KILL_AT="10") == 0


UNSYNCED = """
import mmap, os, pathlib
def sync(path):
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)
    os.close(file)
place = pathlib.Path("place")
(place / "a.part").write_text("new")
sync(place / "a.part")
os.replace(place / "a.part", place / "a")
sync(place)
with (place / "mapped").open("r+b") as file:
    view = mmap.mmap(file.fileno(), 0)
view[0:3] = b"one"
sync(place / "mapped")
view[0:3] = b"two"
with (place / "a").open("r+b") as file:
    file.write(b"lost")
(place / "b.part").write_text("lost")
os.replace(place / "b.part", place / "b")
os.replace(place / "c", place / "d")
os.unlink(place / "e")
(place / "f").mkdir()
(place / "f/g").write_text("lost")
with (place / "h").open("w") as file:
    file.write("lost")
os.rmdir(place / "f")  # is not reached
"""


@pytest.mark.parametrize(
    ("lose", "left"),
    [
        (0, {"a": "lost", "mapped": "two", "b": "lost", "d": "c", "g": "lost", "h": "lost"}),
        (1, {"a": "new", "mapped": "one", "c": "c", "d": "d", "e": "e", "h": "h"}),
        (2, {"a": "new", "mapped": "one", "b": "", "d": "c", "g": "", "h": "h"}),
    ],
)
def test_a_power_failure_takes_back_what_was_not_synced(
    library: Path, tmp_path: Path, lose: int, left: dict[str, str]
) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "vault").mkdir()
    for name in ("a", "c", "d", "e", "h"):
        (tmp_path / "place" / name).write_text(name)
    (tmp_path / "place/mapped").write_text("old")
    listed = {"KILL_LOG": str(tmp_path / "calls"), "KILL_LOSE": str(lose), "KILL_VAULT": str(tmp_path / "vault")}
    variables = {"LD_PRELOAD": str(library), "KILL_ROOT": str(tmp_path / "place"), **listed, "KILL_AT": "18"}
    done = subprocess.run([sys.executable, "-c", UNSYNCED], cwd=tmp_path, env=os.environ | variables)
    assert done.returncode == -9, (tmp_path / "calls").read_text()
    assert (tmp_path / "calls").read_text().splitlines()[-1].split()[1] == "unlink"
    found = {path.name: path.read_text() for path in (tmp_path / "place").rglob("*") if path.is_file()}
    assert found == left


@pytest.mark.long
def test_runs_that_are_killed_at_some_calls_are_those_that_never_were(tmp_path: Path) -> None:
    """`make kill` has the others."""
    command = [sys.executable, str(HERE / "run.py"), "--cases", "atac", "--sample", "2", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": equal\n") == 2
    assert done.stdout.endswith("atac: 0 points failed\n")
