"""Conversions are complete or absent, keyed by content, and shared by processes."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from tiny_dataset import Arrays, write_hdf5

from commands.datasets import main
from datamodules.recorded import conversion
from datamodules.recorded.conversion import convert
from datamodules.recorded.converted import open_converted, payload_bytes
from datamodules.recorded.description import Chunk
from datamodules.recorded.writer import StepWriter

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")

Usage = namedtuple("Usage", "total used free")


def conversions(cache: Path) -> list[Path]:
    return sorted(path for path in cache.iterdir() if path.is_dir())


def test_second_use_opens_the_first_conversion(tmp_path: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_hdf5(tmp_path / "a.h5", arrays)
    first = convert([path], cache_dir=tmp_path / "cache")
    monkeypatch.setattr(conversion, "open_source", lambda *_: pytest.fail("converted twice"))
    assert convert([path], cache_dir=tmp_path / "cache").folder == first.folder


def test_changed_content_and_other_options_are_other_conversions(tmp_path: Path, arrays: Arrays) -> None:
    cache = tmp_path / "cache"
    first = convert([write_hdf5(tmp_path / "a.h5", arrays)], cache_dir=cache)
    drop = convert([tmp_path / "a.h5"], cache_dir=cache, truncation="drop")
    arrays["rewards"][0] = 100.0
    changed = convert([write_hdf5(tmp_path / "a.h5", arrays)], cache_dir=cache)
    assert len({first.folder, drop.folder, changed.folder}) == 3
    assert changed.episodes["return"][0] == 106.0
    assert changed.metadata["content_hash"] != first.metadata["content_hash"] == drop.metadata["content_hash"]


def test_failure_half_way_leaves_nothing_and_is_repaired(
    tmp_path: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, path = tmp_path / "cache", write_hdf5(tmp_path / "a.h5", arrays)
    real = StepWriter.append

    def fail_after_one(writer: StepWriter, chunk: Chunk, usable: np.ndarray) -> None:
        real(writer, chunk, usable)
        raise KeyboardInterrupt

    monkeypatch.setattr(StepWriter, "append", fail_after_one)
    with pytest.raises(KeyboardInterrupt):
        convert([path], cache_dir=cache)
    assert conversions(cache) == []
    monkeypatch.undo()
    assert len(convert([path], cache_dir=cache).steps) == 12


@pytest.mark.parametrize("truncation", ["keep", "drop"])
@pytest.mark.parametrize("change", ["all known", "ends unknown", "doubles"])
def test_a_conversion_asks_for_the_bytes_that_it_writes_and_no_more(
    change: str, truncation: Literal["keep", "drop"], tmp_path: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are left out, and numbers that become shorter, need no room."""
    if change == "ends unknown":
        del arrays["final_observations"]
    if change == "doubles":
        arrays["observations"] = arrays["observations"].astype(np.float64)
    path = write_hdf5(tmp_path / "a.h5", arrays)
    written = payload_bytes(convert([path], cache_dir=tmp_path / "roomy", truncation=truncation).folder)

    def free(size: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 40, 0, size))

    free(written - 1)
    with pytest.raises(ValueError, match=f"{written} bytes of disk would be needed in .*, of which {written - 1} byt"):
        convert([path], cache_dir=tmp_path / "tight", truncation=truncation)
    assert conversions(tmp_path / "tight") == []
    free(written)
    assert payload_bytes(convert([path], cache_dir=tmp_path / "tight", truncation=truncation).folder) == written
    rows = len(arrays["rewards"]) * 4 * (3 + 2 + 3 + 3)
    free(2 * rows)  # enough for whatever it may become: nothing is read to count
    monkeypatch.setattr(conversion, "check_disk", lambda *_, **__: pytest.fail("counted"))
    convert([path], cache_dir=tmp_path / "enough", truncation=truncation)


def test_a_full_disk_names_the_folder_and_what_helps(
    tmp_path: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = write_hdf5(tmp_path / "a.h5", arrays)
    with monkeypatch.context() as patch:
        patch.setattr(conversion.StepWriter, "append", full)
        with pytest.raises(ValueError, match=r"cache: the conversion cannot be written there \(No space.*cache_dir"):
            convert([path], cache_dir=tmp_path / "cache")
    assert conversions(tmp_path / "cache") == []
    assert len(convert([path], cache_dir=tmp_path / "elsewhere").steps) == 12
    monkeypatch.setattr("shutil.copytree", full)
    with pytest.raises(ValueError, match=r"out cannot be written: its disk is full, 660 bytes are needed"):
        main(["convert", str(path), str(tmp_path / "out"), "--cache_dir", str(tmp_path / "elsewhere")])
    assert not list(tmp_path.glob(".out*"))


def test_what_a_killed_converter_left_is_never_opened(tmp_path: Path, arrays: Arrays) -> None:
    cache, path = tmp_path / "cache", write_hdf5(tmp_path / "a.h5", arrays)
    done = convert([path], cache_dir=cache).folder
    left = cache / ".writing-killed"
    shutil.copytree(done, left)
    (left / "steps" / "row.memmap").write_bytes(b"")
    shutil.rmtree(done)
    again = convert([path], cache_dir=cache)
    assert again.folder == done
    assert again.episodes["return"].tolist() == [6.0, 15.0, 45.0]


@pytest.mark.parametrize("damage", ["row.memmap", "meta.json"])
def test_damaged_conversion_is_refused(tmp_path: Path, arrays: Arrays, damage: str) -> None:
    folder = convert([write_hdf5(tmp_path / "a.h5", arrays)], cache_dir=tmp_path / "cache").folder
    file = folder / "steps" / damage
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match="damaged"):
        open_converted(folder)


def _convert_in_a_process(path: Path, cache: Path, sums: object) -> None:
    sums.put(float(convert([path], cache_dir=cache).steps["row"].sum()))


def test_processes_that_convert_at_once_agree(tmp_path: Path, arrays: Arrays) -> None:
    path, cache = write_hdf5(tmp_path / "a.h5", arrays), tmp_path / "cache"
    context = multiprocessing.get_context("fork")
    sums = context.Queue()
    processes = [context.Process(target=_convert_in_a_process, args=(path, cache, sums)) for _ in range(3)]
    for process in processes:
        process.start()
    values = [sums.get(timeout=200) for _ in processes]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(set(values)) == 1
    assert len(conversions(cache)) == 1


def test_commands(
    tmp_path: Path, write: Callable[[str], str], capsys: pytest.CaptureFixture[str], arrays: Arrays
) -> None:
    source = write("minari-hdf5")
    main(["list"])
    assert source in capsys.readouterr().out
    main(["check", source])
    card = capsys.readouterr().out
    assert "1 terminals, 2 time-outs" in card
    assert "mean 22.0" in card
    main(["convert", source, str(tmp_path / "out")])
    shutil.rmtree(tmp_path / "cache")
    moved = convert([tmp_path / "out"])
    np.testing.assert_array_equal(moved.steps["row"][:, :3].numpy(), arrays["observations"])
    with pytest.raises(ValueError, match="exists already"):
        main(["convert", source, str(tmp_path / "out")])
    with pytest.raises(ValueError, match="converted with truncation: keep"):
        convert([tmp_path / "out"], truncation="drop")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["lst"], "did you mean 'list'?"),
        (["check"], "the following arguments are required: source"),
        (["list", "--foldr", "x"], "unrecognized arguments: --foldr x; did you mean '--folder'?"),
        (
            ["check", "a.h5", "--truncation", "dropp"],
            "expected one of 'keep', 'drop'. Got value: dropp; did you mean 'drop'",
        ),
    ],
)
def test_mistakes_in_commands_are_one_line(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(argv)
    message = capsys.readouterr().err
    assert leaving.value.code == 2
    assert message.startswith("reverie: error: ")
    assert said in message
    assert message.count("\n") == 1


def test_check_refuses_another_environment(write: Callable[[str], str], tmp_path: Path) -> None:
    source = write("memmap")
    with pytest.raises(ValueError, match="observations has rows of shape"):
        main(["check", source, "--environment", "Hopper-v5"])


def test_list_shows_what_collect_writes_in_the_working_directory(
    write: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = write("minari-hdf5")
    (tmp_path / "data").mkdir()
    (tmp_path / "minari").rename(tmp_path / "data/minari")
    monkeypatch.chdir(tmp_path)
    main(["list"])
    assert f"data/minari/{name}" in capsys.readouterr().out
