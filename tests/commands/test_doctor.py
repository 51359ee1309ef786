"""`doctor`: what it finds wrong, what it advises, and its exit status."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
import torchrl.data
from command_line import mistake
from packaging.requirements import Requirement

import reverie
from commands import doctor as command
from commands import machine_health
from commands.doctor import attempted, findings_table
from commands.health import (
    Finding,
    Wanted,
    check_compiler,
    check_python,
    check_replay,
    check_versions,
    installed_version,
    wanted_packages,
)
from commands.machine_health import GIB, check_disk, check_films, check_gpu, check_memory, check_store, check_threads

PYTHON = shlex.quote(sys.executable)
"""This interpreter in a command, whatever its folder is called."""


def told(versions: Mapping[str, str], **locked: str) -> list[Finding]:
    """Findings where these versions are installed."""
    needed = [Requirement("torch>=2.14,<2.15"), Requirement("torchrl==0.14.*")]
    extras = {"ray": [Requirement("ray>=2.40")], "two": [Requirement("one"), Requirement("torch<1")]}
    return check_versions(Wanted(needed, extras, locked), versions.get)


def test_versions_that_are_needed_are_there() -> None:
    assert check_python()[0].state == "ok"
    found = check_versions(wanted_packages())
    assert [one for one in found if one.state == "wrong"] == []
    assert found[0].check == "packages"


def test_versions_of_another_kind_are_named_with_the_command_that_installs_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (fine,) = told({"torch": "2.14.1+cu130", "torchrl": "0.14.3"}, torch="2.14.1", torchrl="0.14.3")
    assert fine == Finding("packages", "ok", "2 as needed, torch 2.14.1+cu130")
    old, absent = told({"torch": "2.13.0"})
    assert old[:3] == ("torch", "wrong", "2.13.0, and <2.15,>=2.14 is needed")
    assert old.advice == f"{PYTHON} -m pip install 'torch<2.15,>=2.14'"
    assert absent == Finding("torchrl", "wrong", "not installed", f"{PYTHON} -m pip install 'torchrl==0.14.*'")
    _, extra = told({"torch": "2.14.0", "torchrl": "0.14.0", "ray": "1.0"})
    assert extra == Finding(
        "ray", "note", "1.0, and the extra 'ray' needs >=2.40", f"{PYTHON} -m pip install 'ray>=2.40'"
    )
    *_, torch_of_two = told({"torch": "2.14.0", "torchrl": "0.14.0", "one": "1"})
    assert torch_of_two[:3] == ("torch", "note", "2.14.0, and the extra 'two' needs <1")
    _, other = told({"torch": "2.14.0", "torchrl": "0.14.0"}, torch="2.14.1", torchrl="0.14.0")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert told({"torch": "2.14.0"})[-1].advice == f"uv pip install --python {PYTHON} 'torchrl==0.14.*'"
    assert other[1:3] == ("note", "allowed, and not those that are tested: torch 2.14.0 (locked 2.14.1)")


def test_an_installation_without_a_checkout_knows_its_requirements(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lines = ["torch>=2.14,<2.15", "ray>=2.40; extra == 'ray'"]
    monkeypatch.setattr("commands.health.metadata.requires", lambda name: lines)
    wanted = wanted_packages(tmp_path)
    assert [one.name for one in wanted.needed] == ["torch"]
    assert {extra: [one.name for one in some] for extra, some in wanted.extras.items()} == {"ray": ["ray"]}
    assert wanted.locked == {}
    assert wanted_packages().locked["torch"].startswith("2.14")
    assert installed_version("no-such-package") is None


def test_an_extension_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_replay()[0].state == "ok"

    def refuse(**given: Any) -> None:
        raise ImportError("SumSegmentTreeFp32 is not available")

    monkeypatch.setattr(torchrl.data, "PrioritizedReplayBuffer", refuse)
    (found,) = check_replay()
    assert found[:3] == ("TorchRL", "wrong", "ImportError: SumSegmentTreeFp32 is not available")
    assert "make setup" in found.advice


def test_a_compiler_that_is_missing_or_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert check_compiler()[0].state == ("ok" if shutil.which("g++") else "note")
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert check_compiler()[0][1:3] == ("note", "there is no no-such-compiler")
    script = tmp_path / "broken"
    script.write_text("#!/bin/sh\necho 'fatal error: omp.h: No such file' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    assert check_compiler()[0].found == f"{script}: fatal error: omp.h: No such file"


def test_a_gpu_that_torch_does_not_see(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine_health, "NVIDIA", tmp_path / "none")
    assert check_gpu() == [Finding("GPU", "ok", "none; runs use the processor")]
    monkeypatch.setattr(machine_health, "NVIDIA", tmp_path)
    for version, said in (("13.0", "torch for CUDA 13.0 does not see it"), (None, "this torch has no CUDA")):
        monkeypatch.setattr(torch.version, "cuda", version)
        (found,) = check_gpu()
        assert found.state == "wrong"
        assert said in found.found


def test_a_gpu_that_cannot_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: "Card")

    def fail(*given: Any, **named: Any) -> None:
        raise RuntimeError("out of memory\nmore")

    monkeypatch.setattr(torch, "ones", fail)
    (found,) = check_gpu()
    assert found[:3] == ("GPU", "wrong", "Card: out of memory")


@pytest.mark.parametrize(("free", "state"), [(0.5, "wrong"), (5.0, "note"), (50.0, "ok")])
def test_room_and_memory(free: float, state: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free * GIB))
    assert [one.state for one in check_disk(tmp_path)] == [state, state]
    memory = check_memory({0.5: 0.5, 5.0: 2.0, 50.0: 50.0}[free])
    assert memory[0].state == state
    assert len(memory) == 1
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=3 * GIB))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0.1 * GIB))
    assert check_memory()[0].found == "3.0 GiB available"
    assert [one.check for one in check_memory()] == [
        "memory",
        *(["shared memory"] if Path("/dev/shm").is_dir() else []),
    ]


def test_a_folder_that_cannot_be_written_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert check_disk(tmp_path)[0].found == f"{tmp_path} cannot be written to"
    (found,) = check_store(f"sqlite:///{tmp_path}/new/mlflow.db")
    assert found[1:3] == ("wrong", f"{tmp_path}/new/mlflow.db cannot be made")


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1}, raising=False)
    for threads, load, state in (("1", 0.5, "ok"), ("3", 0.5, "note"), ("many", 0.5, "note"), ("2", 9.0, "note")):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        monkeypatch.setattr("os.getloadavg", lambda load=load: (load, 0.0, 0.0))
        (found,) = check_threads()
        assert (found.found, found.state) == (f"{threads} per process on 2 cores, load {load}", state)


def test_a_store_that_is_new_damaged_or_silent(tmp_path: Path) -> None:
    new = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert check_store(new) == [Finding("MLflow", "ok", f"{tmp_path / 'mlflow.db'} is made by the first run")]
    assert not (tmp_path / "mlflow.db").exists()
    (tmp_path / "mlflow.db").write_text("no database at all")
    (found,) = check_store(new)
    assert found.state == "wrong"
    assert "is no SQLite database" in found.found
    assert found.advice.endswith(f"or move {tmp_path / 'mlflow.db'} away")
    (found,) = check_store("http://127.0.0.1:9")
    assert "no MLflow tracking server answers at http://127.0.0.1:9" in found.found
    assert found.advice.endswith("or start the server")


def test_films_need_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", lambda: "ffmpeg")
    assert check_films()[0].state == "ok"
    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", lambda: (_ for _ in ()).throw(RuntimeError("No ffmpeg exe")))
    assert check_films()[0][1:3] == ("note", "No ffmpeg exe")


def test_the_table_and_the_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("check_compiler", "check_disk", "check_memory"):  # of this machine, whatever it has
        monkeypatch.setattr(command, name, lambda *given, name=name: [Finding(name, "note", "something", "do it")])
    reverie.main(["doctor"])
    shown = capsys.readouterr().out
    assert shown.splitlines()[-1] == "nothing here would break a run"
    assert "-> do it" in shown
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(command, "check_threads", lambda: 1 / 0)
    with pytest.raises(SystemExit) as leaving:
        reverie.main(["doctor", "--tracking_uri", "http://127.0.0.1:9"])
    assert leaving.value.code == 1
    shown = capsys.readouterr().out
    assert shown.splitlines()[-1] == "2 of these would break a run"
    assert "ZeroDivisionError" in shown
    assert "there is no folder nowhere" in mistake(["doctor", "--folder", "nowhere"], capsys)


def test_a_check_that_fails_is_something_wrong() -> None:
    def fail() -> list[Finding]:
        raise OSError("libcudart.so.13: cannot open")

    (found,) = attempted("GPU", fail)
    assert found[:3] == ("GPU", "wrong", "OSError: libcudart.so.13: cannot open")
    assert findings_table([found]).row_count == 1
