"""The disk of one part of a run is full for a while: one line says so, nothing is lost, and the run goes on exactly."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from forked import HERE, ROOT, run_reverie

sys.path.insert(0, str(ROOT / "tests/kill"))
from cases import CASES, prepare
from processes import build, preloaded
from state import state_of

from datamodules.recorded.conversion import MAKE_ROOM
from modules.agent.checkpoint_file import read_checkpoint
from modules.agent.update_state import differences

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(shutil.which(os.environ.get("CC", "cc")) is None, reason="there is no C compiler"),
]


class Disk(NamedTuple):
    """A disk that fills while a run is written to it.

    Attributes:
        case: of `CASES`.
        place: folder, or file, on that disk.
        updates: updates that come before it is full; -1 for the end of training, 0 for the time before the first one
            and the rows that it needs, None for a disk that was full before the run.
        said: end of the one line that the run says.
    """

    case: str
    place: str
    updates: int | None
    said: str


LAST, BEFORE = "run/checkpoints/last.ckpt", "kB of disk would be needed in"
DISKS = {
    "conversion": Disk("atac", "cache", None, f"the conversion of tiny.npz: {MAKE_ROOM}: 14.5 {BEFORE}"),
    "checkpoints": Disk("atac", "run/checkpoints", 12, f"{LAST} is full, 0.1 MB are needed"),
    "replay": Disk("sac", "run/replay", 0, "run/replay/rank0/layout.json is full"),
    "run": Disk("atac", "run", 12, f"{LAST} is full, 0.1 MB are needed"),
    "tables": Disk("sac", "run", -1, "run/evaluation.csv is full"),
    "pictures": Disk("sac", "run/.learning_curve.png.tmp", -1, "run/learning_curve.png is full"),
    "run and records": Disk("atac", ".", 12, f"{LAST} is full, 0.1 MB are needed"),
    "before": Disk("atac", "run", None, "run is full"),
}


@pytest.fixture(scope="module")
def forked_with_library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with preloaded(build(tmp_path_factory.mktemp("library"), "full")):
        yield


def run(case: str, work: Path, disk: Disk | None = None) -> subprocess.CompletedProcess[str]:
    """Start or continue the run of a folder, on a disk that fills, or one with room."""
    full = work.parent / f"{work.name}-full"
    environment = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)]),
        "REVERIE_CACHE": str(work / "cache"),
        "REVERIE_RUN_DIR": str(work / "run"),
        "OMP_NUM_THREADS": "1",
    }
    more: list[str] = []
    if disk is not None:
        environment |= {"FULL_ROOT": str(work / disk.place), "FULL_WHEN": str(full)}
    if disk is not None and disk.updates is None:
        full.touch()
    elif disk is not None:
        fill = {"class_path": "filled_disk.Fill", "init_args": {"file": str(full), "updates": disk.updates}}
        more = ["--trainer.callbacks+", json.dumps(fill)]
    return run_reverie(["fit", *CASES[case], *more, "--ckpt_path", "last"], work, environment)


def kept(work: Path) -> dict[str, Any]:
    """All that a run has left, but for its parameters, which tell of the callback that fills the disk."""
    return {name: entry for name, entry in state_of(work).items() if name != "parameters"}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs, one after the other: checkpoints hold its path."""
    return tmp_path_factory.mktemp("disks") / "work"


def begin(work: Path) -> None:
    """Make the folder anew."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    prepare(work)


@pytest.fixture(scope="module")
def whole(forked_with_library: None, work: Path) -> dict[str, dict[str, Any]]:
    """All that runs leave whose disks have room."""
    found = {}
    for case in sorted({disk.case for disk in DISKS.values()}):
        begin(work)
        done = run(case, work)
        assert done.returncode == 0, done.stderr
        found[case] = kept(work)
        shutil.copytree(work, finished(work, case))
    return found


def finished(work: Path, case: str) -> Path:
    """The folder of a run whose disks had room, which is over."""
    return work.with_name(f"finished-{case}")


@pytest.mark.parametrize("name", DISKS)
def test_a_full_disk_is_one_line_and_the_run_goes_on_exactly(
    name: str, whole: dict[str, dict[str, Any]], work: Path
) -> None:
    disk = DISKS[name]
    begin(work)
    full = run(disk.case, work, disk)
    assert full.returncode == 2, full.stderr
    (line,) = [line for line in full.stderr.splitlines() if line.startswith("reverie: error: ")]
    assert "Traceback" not in full.stderr
    assert disk.said in line
    if disk.updates not in (None, 0):
        assert read_checkpoint(work / "run/checkpoints/last.ckpt")["agent"]["updates"] > 0
    work.with_name("work-full").unlink()
    done = run(disk.case, work)
    assert done.returncode == 0, done.stderr
    assert [difference.name for difference in differences(whole[disk.case], kept(work))] == []


class Command(NamedTuple):
    """A command whose disk is full.

    Attributes:
        case: the finished run in whose folder it is started.
        words: its arguments; the folder `out` is on that disk.
        said: what its one line says.
    """

    case: str
    words: str
    said: str


LOGS = "x,u,reward,end\n" + "1.0,0.5,0.25,0\n" * 49 + "1.0,0.5,0.25,1\n"
PENDULUM = "--environment Pendulum-v1 --dataset some/data-v0 --transitions 200 --reference_episodes 2"

COMMANDS = {
    "collect": Command("sac", f"collect {PENDULUM} --root out", BEFORE),
    "check": Command("sac", "datasets check tiny.npz --cache_dir out", BEFORE),
    "convert": Command("sac", "datasets convert tiny.npz out/it", BEFORE),
    "best": Command("sac", "datasets best tiny.npz out/it.h5", "out/it.h5 cannot be written: its disk is full, up to"),
    "csv": Command(
        "sac",
        "datasets csv logs.csv out/it.npz --observations [x] --actions [u] --truncated end",
        "out/it.npz cannot be written: its disk is full, up to",
    ),
    "export": Command("sac", f"export --ckpt_path {LAST} --output out", "out/policy.onnx is full"),
    "evaluate": Command("sac", f"evaluate --ckpt_path {LAST} --episodes 2 --output out/it.csv", "out/it.csv is full"),
    "compare": Command("sac", "compare run --output out", "out/compare.csv is full"),
    "select": Command(
        "atac",
        "select --ckpt_path run --discount 0.5 --fqe.updates 20 --fqe.look_every 10 --output out",
        "out/select.json is full",
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_whose_disk_is_full_says_so_and_leaves_no_part_of_a_file(
    name: str, whole: dict[str, dict[str, Any]], work: Path
) -> None:
    command = COMMANDS[name]
    folder = finished(work, command.case)
    out, full = folder / "out", work.with_name("out-full")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    full.touch()
    (folder / "logs.csv").write_text(LOGS)
    environment = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)]),
        "REVERIE_CACHE": str(folder / "cache"),
        "FULL_ROOT": str(out),
        "FULL_WHEN": str(full),
    }
    done = run_reverie(command.words.split(), folder, environment)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("reverie: error: ")]
    assert "Traceback" not in done.stderr
    assert command.said in line
    assert [path for path in out.rglob("*") if path.is_file() and path.suffix != ".lock"] == []
