"""Records that wait on disk until a tracking server has them."""

from __future__ import annotations

import errno
import logging
import os
import threading
from pathlib import Path

from modules.disk import about_file, to_disk

_log = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20


class Spool:
    """An append-only file of lines, and how far its reader has come.

    `append` returns when the operating system has the line, so that it outlives the process; `secure` returns when the
    disk has it, so that it outlives the machine. The reader's place is kept in a second file beside it, `NAME.sent`, so
    that nothing is ever rewritten; a file whose lines were all read is emptied. After a crash a few lines may be read
    again, and none is missed.

    On a full disk lines stay in memory, in order, and are written as soon as there is room.

    Args:
        path: path of the file; its folder exists. Lines that an earlier process left there are read first.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._place = path.with_suffix(".sent")
        self._lock = threading.RLock()
        self._file: int | None = None
        self._mark = 0  # byte offset up to which all was read
        self._end = 0  # of the file
        self._saved_mark = 0  # as the disk has it
        self._tail = b""  # what the disk has no room for, behind the end
        if path.exists():
            self._open()

    def append(self, line: str) -> None:
        """Add one line, without its line break."""
        with self._lock:
            self._tail += line.encode() + b"\n"
            self._write_tail()

    def read(self, start: int | None = None) -> list[tuple[str, int]]:
        """About a MiB of lines, each with the offset behind it; none at the end.

        Args:
            start: byte offset to begin at; by default behind the last that was marked as read.

        Raises:
            OSError: the file is shorter than what was written to it.
        """
        with self._lock:
            if self._tail:
                self._write_tail()
            start = self._mark if start is None else start
            if start >= self._end:
                text = self._tail[start - self._end :]
            else:
                assert self._file is not None
                size = CHUNK_BYTES
                text = os.pread(self._file, size, start)
                while b"\n" not in text and len(text) == size:  # one line that is longer
                    size *= 2
                    text = os.pread(self._file, size, start)
                if b"\n" not in text:
                    raise OSError(errno.EIO, "the file was cut short by another program", str(self.path))
        lines = []
        for line in text[: text.rfind(b"\n") + 1].splitlines(keepends=True):
            start += len(line)
            lines.append((line[:-1].decode(errors="replace"), start))
        return lines

    def mark(self, offset: int) -> None:
        """All before this offset, which `read` gave, need not be read again."""
        with self._lock:
            self._mark = offset
            if not self.empty():
                self._save_mark(min(offset, self._end))
            elif self._save_mark(0):
                # In this order: a crash in between makes lines be read twice, the other one would hide new lines.
                if self._file is not None:
                    os.ftruncate(self._file, 0)
                self._mark = 0
                self._end = 0
                self._tail = b""

    def empty(self) -> bool:
        """Whether all was read."""
        with self._lock:
            return self._mark >= self._end + len(self._tail)

    def secure(self) -> None:
        """Return when the disk has every line that was appended and is not read.

        Raises:
            OSError: the disk does not take them; it names the file.
        """
        with self._lock:
            if self.empty():
                return
            if (error := self._write_tail()) is not None:
                raise about_file(error, self.path, len(self._tail)) from error
            assert self._file is not None
            if self._place.exists():  # an old mark of a file that was emptied since would hide new lines
                to_disk(self._place)
            os.fsync(self._file)
            to_disk(self.path.parent)  # the file's name, too

    def close(self) -> None:
        """Let go of the file, and leave none behind when all was read; a later `append` opens it again."""
        with self._lock:
            if self._file is None:
                return
            os.close(self._file)
            self._file = None
            if self.empty():
                self._mark = 0
                self._end = 0
                self._saved_mark = 0
                self.path.unlink(missing_ok=True)
                self._place.unlink(missing_ok=True)

    def _open(self) -> None:
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        self._end = os.fstat(self._file).st_size
        if self._end and os.pread(self._file, 1, self._end - 1) != b"\n":  # a crash cut the last line short
            self._end += os.pwrite(self._file, b"\n", self._end)
        if self._place.exists():
            text = self._place.read_text().strip()
            self._mark = min(int(text) if text.isdecimal() else 0, self._end)
            self._saved_mark = self._mark

    def _write_tail(self) -> OSError | None:
        """Move lines from memory to the file, all or none; returns why it was none."""
        try:
            if self._file is None:
                self._open()
            assert self._file is not None
            written = 0
            while written < len(self._tail):
                written += os.pwrite(self._file, self._tail[written:], self._end + written)
        except OSError as error:  # no room, or the folder is away: the next line tries again
            self._cut()
            return error
        self._end += len(self._tail)
        self._tail = b""
        return None

    def _cut(self) -> None:
        """Take back what was written behind the end."""
        if self._file is None:
            return
        try:
            os.ftruncate(self._file, self._end)
        except OSError as error:  # the next write goes over it
            _log.debug("%s: %s", self.path, error)

    def _save_mark(self, offset: int) -> bool:
        if offset == self._saved_mark:
            return True
        try:
            place = os.open(self._place, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                os.pwrite(place, f"{offset:020d}\n".encode(), 0)  # always as long: one write replaces it whole
            finally:
                os.close(place)
        except OSError:  # lines may be read twice after a crash, as with any crash
            return False
        self._saved_mark = offset
        return True
