"""A full disk is one line that names the folder, and nothing is left half-written."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch

import callbacks.checkpointing
import commands.lightning
import reverie
from callbacks.files.written_aside import written_aside
from commands.messages import full_disk_named, told
from datamodules.played.minari_episodes import _file_size, episodes, write_minari
from datamodules.replay.memory_mapped_rows import Field, MemoryMappedRows
from modules.disk import disk_is_full

Usage = namedtuple("Usage", "total used free")


def full(*_: object, **__: object) -> None:
    """A library's answer to a full disk: an error of its own, raised where the file is closed."""
    try:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904


def test_whatever_a_library_makes_of_it_is_one_line() -> None:
    with pytest.raises(RuntimeError) as caught:
        full()
    assert "a disk is full: free some space" in str(told(caught.value))
    h5py = OSError("Can't write data (file write failed: errno = 28, error message = 'No space left on device')")
    assert disk_is_full(h5py)
    named = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/some/place")
    assert str(told(named)).startswith("the disk of /some/place is full")
    assert not disk_is_full(OSError(errno.ENOENT, "No such file"))
    assert told(RuntimeError("unexpected pos")) is None


def test_a_file_whose_size_nobody_knows_is_named_without_the_room_that_it_needs(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"

    def write() -> None:
        with written_aside(file) as aside:
            aside.write_text("half of i")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=r"No space left on device: .*table\.csv") as caught:
        write()
    assert str(told(caught.value)).startswith(f"the disk of {file} is full: free some space")
    assert list(tmp_path.iterdir()) == []


def test_an_error_that_names_its_place_is_not_said_of_the_runs_folder() -> None:
    """A conversion writes into a cache, whose disk may be another one."""
    no_room = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    run = full_disk_named(lambda: Path("run"))
    with pytest.raises(ValueError, match="the conversion cannot be written") as caught, run:
        raise ValueError("cache: the conversion cannot be written there") from no_room
    assert told(caught.value) == "cache: the conversion cannot be written there"
    with pytest.raises(OSError, match=r"No space left on device: 'run'"), full_disk_named(lambda: Path("run")):
        raise no_room


def test_a_checkpoint_that_finds_no_room_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    io = callbacks.checkpointing.AtomicCheckpointIO()
    io.save_checkpoint({"a": 1}, tmp_path / "last.ckpt")
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"No space left on device, 4\.2 MB are needed: .*last\.ckpt") as caught:
        io.save_checkpoint({"a": [torch.zeros(1_000_000)], "b": torch.zeros(50_000)}, tmp_path / "last.ckpt")
    assert f"the disk of {tmp_path / 'last.ckpt'} is full, 4.2 MB are needed: free" in str(told(caught.value))
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.load(tmp_path / "last.ckpt") == {"a": 1}


def test_fit_names_the_folder_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands.lightning.ReverieCLI, "instantiate_classes", full)
    with pytest.raises(SystemExit) as leaving:
        reverie.main(["fit", "--config", "a2c/cartpole", "--run_dir", "here"])
    assert leaving.value.code == 2
    message = capsys.readouterr().err
    assert f"the disk of {tmp_path / 'here'}" in message
    assert "is full" in message
    assert "--ckpt_path last" in message


def test_collect_looks_before_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played = list(itertools.islice(episodes("Pendulum-v1", lambda x: x.observation[:, :1], seed=0, environments=2), 3))
    about = {"settings": {}, "algorithm": "a", "description": "b", "references": None, "reference_episodes": 1}
    folder = write_minari(tmp_path / "roomy", "pendulum/it-v0", "Pendulum-v1", played, **about)
    written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert written <= _file_size(played) <= 10 * written
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 40, 0, written // 2))
    with pytest.raises(ValueError, match=r"--root: .* of disk would be needed in .*tight, .* are free$"):
        write_minari(tmp_path / "tight", "pendulum/it-v0", "Pendulum-v1", played, **about)
    assert not list((tmp_path / "tight").iterdir())


def test_rows_have_their_room_before_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"it": Field((30,), torch.float32), "flag": Field((), torch.bool)}
    files = MemoryMappedRows(tmp_path, fields, 100_000)
    files.reserve(20_000)
    taken = (tmp_path / "field-it.bin").stat().st_blocks * 512
    assert 20_000 * 120 <= taken < 20_000 * 120 + (2 << 20)  # as many rows as were asked for and few more, not all
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: full(), raising=False)
    files.reserve(20_001)  # which are there: room is made for a mebibyte at a time
    with pytest.raises(RuntimeError, match="unexpected pos"):
        files.reserve(40_000)

    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", no_room, raising=False)
    with pytest.raises(OSError, match=r"No space left on device.*field-it\.bin"):
        files.reserve(40_000)
