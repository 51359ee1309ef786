"""The file in which records wait: appended, never rewritten, whole after a crash, patient on a full disk."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path

import pytest

import callbacks.mlflow.spool
from callbacks.mlflow.spool import Spool
from callbacks.mlflow.writer import BackgroundWriter, waiting_records


def take(spool: Spool, count: int) -> list[str]:
    """Read lines one after the other, as a sender does."""
    taken: list[str] = []
    while len(taken) < count:
        for line, offset in spool.read()[: count - len(taken)]:
            taken.append(line)
            spool.mark(offset)
    return taken


def test_lines_come_in_order_and_a_new_process_goes_on_behind_the_mark(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "x.jsonl")
    for i in range(10):
        spool.append(f"line {i}")
    assert take(spool, 4) == [f"line {i}" for i in range(4)]
    again = Spool(tmp_path / "x.jsonl")  # the first process was killed
    again.append("line 10")
    assert take(again, 7) == [f"line {i}" for i in range(4, 11)]
    assert again.empty()
    assert (tmp_path / "x.jsonl").stat().st_size == 0
    again.append("line 11")
    again.close()
    assert take(Spool(tmp_path / "x.jsonl"), 1) == ["line 11"]
    last = Spool(tmp_path / "x.jsonl")
    last.close()
    assert list(tmp_path.iterdir()) == []


def test_a_line_that_a_crash_cut_short_does_not_swallow_the_next(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("whole\ncut sho")
    spool = Spool(tmp_path / "x.jsonl")
    spool.append("next")
    assert take(spool, 3) == ["whole", "cut sho", "next"]


def test_lines_longer_than_a_chunk_and_a_mark_behind_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks.mlflow.spool, "CHUNK_BYTES", 8)
    (tmp_path / "x.sent").write_text("99999999999999999999\n")  # the disk lost the lines and kept the place
    spool = Spool(tmp_path / "x.jsonl")
    spool.append("x" * 100)
    spool.append("y")
    assert take(spool, 2) == ["x" * 100, "y"]


def test_a_full_disk_keeps_lines_in_memory_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool, write = Spool(tmp_path / "x.jsonl"), os.pwrite
    spool.append("before")

    def half(file: int, data: bytes, offset: int) -> int:
        if offset % 2 == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[:1], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", half)
        spool.append("one")
        spool.append("two")
        assert (tmp_path / "x.jsonl").read_text() == "before\n"  # nothing half-written
        assert take(spool, 2) == ["before", "one"]  # sent although the disk is full
    spool.append("three")
    assert take(spool, 2) == ["two", "three"]
    assert spool.empty()


def test_what_is_in_memory_alone_is_not_secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    for begun in (False, True):
        spool = Spool(tmp_path / f"{begun}.jsonl")
        if begun:
            spool.append("before")
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", fail)
            patch.setattr(os, "ftruncate", fail)  # which must not reach who appends
            spool.append("one")
            with pytest.raises(OSError, match=rf"No space left on device.*{begun}\.jsonl"):
                spool.secure()
        spool.secure()
        assert (tmp_path / f"{begun}.jsonl").read_text() == ("before\none\n" if begun else "one\n")


def test_an_old_mark_that_would_hide_new_lines_is_on_disk_before_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(callbacks.mlflow.spool, "to_disk", lambda path: synced.append(path.name))
    spool = Spool(tmp_path / "x.jsonl")
    spool.append("old")
    spool.append("older")
    assert take(spool, 2) == ["old", "older"]  # which empties the file
    spool.append("new")
    monkeypatch.setattr(os, "fsync", lambda _: synced.append("lines"))
    spool.secure()
    assert synced == ["x.sent", "lines", tmp_path.name]


def test_what_was_sent_stays_until_the_store_has_it_on_disk(tmp_path: Path) -> None:
    """A store that took it and lost it in a power failure is sent it again."""
    settled: list[bool] = []

    def settle() -> None:
        settled.append(True)
        if len(settled) == 1:
            raise OSError(errno.EIO, "the disk")

    client = Uploads()
    (tmp_path / "a.txt").write_text("a")
    writer = BackgroundWriter(client, tmp_path, retry_seconds=0.0, settle=settle)
    writer.put({"kind": "file", "run_id": "r", "source": str(tmp_path / "a.txt"), "folder": None})
    assert writer.flush(250)
    assert writer.flush(250)
    assert client.taken == [str(tmp_path / "a.txt")] * 2


def test_fifty_thousand_lines_do_not_cost_more_each_than_a_few(tmp_path: Path) -> None:
    """Appending never reads or rewrites what waits: 18.7 s where it did."""
    spool = Spool(tmp_path / "x.jsonl")
    began = time.process_time()
    for i in range(50_000):
        spool.append(f'{{"kind": "metrics", "run_id": "r", "values": [["atac/loss", 1.0, 0, {i}]]}}')
    spool.secure()
    assert time.process_time() - began < 5


class Uploads:
    """As much of a client as takes files."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    def log_artifact(self, run_id: str, source: str, folder: str | None) -> None:
        self.taken.append(source)


def flushed(client: Uploads, folder: Path) -> BackgroundWriter:
    """A writer that has taken all that waits in a folder."""
    writer = BackgroundWriter(client, folder)
    assert writer.flush(250)
    return writer


def test_only_files_of_the_run_are_sent_for_an_earlier_process(tmp_path: Path) -> None:
    """Whoever made the folder could have named any file of this machine."""
    folder, secret = tmp_path / "run", tmp_path / "secret"
    (folder / "films").mkdir(parents=True)
    own = folder / "films/a.mp4"
    for file in (secret, own):
        file.touch()
    (folder / "link").symlink_to(secret)
    sources = ["/etc/hostname", str(secret), str(folder / "link"), f"{folder}/../secret", str(own), "a\0b"]
    lines = [json.dumps({"kind": "file", "run_id": "r", "source": source, "folder": None}) for source in sources]
    (folder / "mlflow-files.jsonl").write_text("\n".join(lines) + "\n")
    client = Uploads()
    with pytest.warns(UserWarning, match=r"hostname lies outside .*run; log it yourself"):
        writer = flushed(client, folder)
    writer.put({"kind": "file", "run_id": "r", "source": str(secret), "folder": None})  # now the user sends it
    assert writer.flush(250)
    assert client.taken == [str(own), str(secret)]
    assert len((folder / "mlflow-rejected.jsonl").read_text().splitlines()) == 5


@pytest.mark.parametrize(
    "line",
    ["[1]", '{"a": 1}', "5", "[" * 100_000, '{"kind": "x", "run_id": "r"}', '{"kind": "metrics", "run_id": 5}',
     '{"kind": "metrics", "run_id": "r", "values": [["a", 1]]}', '{"kind": "file", "run_id": "r", "source": 5}'],
)  # fmt: skip
def test_a_line_of_another_form_is_put_aside(tmp_path: Path, line: str) -> None:
    for name in ("values", "files"):
        (tmp_path / f"mlflow-{'spool' if name == 'values' else name}.jsonl").write_text(f"{line}\n")
    assert list(waiting_records(tmp_path)) == []
    with pytest.warns(UserWarning, match="cannot take a record of damaged"):
        assert BackgroundWriter(Uploads(), tmp_path).flush(250)
    assert len((tmp_path / "mlflow-rejected.jsonl").read_text().splitlines()) == 2


def test_a_file_that_another_program_cut_short_is_an_error_and_not_a_search_without_end(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "x.jsonl")
    spool.append("one")
    spool.append("two")
    os.truncate(tmp_path / "x.jsonl", 2)
    with pytest.raises(OSError, match="cut short by another program"):
        spool.read()
    os.truncate(tmp_path / "x.jsonl", 0)
    with pytest.raises(OSError, match="cut short by another program"):
        spool.read()
