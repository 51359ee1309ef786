"""Rows of several fields in memory-mapped files: larger than memory, kept after the process, sparse until written."""

from __future__ import annotations

import ctypes
import json
import math
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from modules.arguments.memory import check_disk, readable
from modules.disk import about_file, make_folder, room_for, to_disk
from modules.trust.files import read_json_object

RESIDENT_LIMIT = 256 << 20
"""Bytes that rows may keep resident before their pages are given back, as far as they can be counted."""

FAULT_AROUND = 64 << 10
"""Bytes that Linux maps around a page that is touched."""

RESERVED = 1 << 20
"""Bytes of rows that room on the disk is made for at a time: to ask for it costs more than to write a row."""

MADV_DONTNEED = 4

COUNT = "count.bin"

LAYOUT = "layout.json"


class Field(NamedTuple):
    """Kind of one entry of a row.

    Attributes:
        shape: shape of the entry in one row.
        dtype: dtype of its numbers.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype


class MemoryMappedRows:
    """`rows` rows of named fields, one file per field, opened for reading and writing.

    Files of the same layout that are in the folder are opened as they are; others are removed.

    Args:
        folder: made if it is missing.
        fields: fields by name; a slash in a name stands between keys, see `modules.batch.path_of`.
        rows: number of rows `R`.
    """

    def __init__(self, folder: Path, fields: Mapping[str, Field], rows: int) -> None:
        self.folder = folder
        self.rows = rows
        size = sum(field_bytes(field) for field in fields.values()) * rows
        check_disk("the replay of this data.capacity and data.steps_per_epoch", size, folder)
        make_folder(folder)
        card = folder / LAYOUT
        layout = describe_layout(fields, rows)
        if read_layout(folder) != layout:
            for path in folder.glob("*.bin"):
                path.unlink()
            free = shutil.disk_usage(folder).free
            if size > free:  # a write to a full disk ends the process without a word
                rank_zero_warn(
                    f"the replay in {folder} can grow to {readable(size)}, but {readable(free)} are free: lower the "
                    "capacity, or choose another folder"
                )
            with room_for(card):
                card.write_text(json.dumps(layout))
        self.values = {name: _map(folder / file_name(name), field, rows) for name, field in fields.items()}
        # Room is asked for ahead of the writes, and pages that were written are given back where the files are large.
        row_bytes = max(value[:1].nbytes for value in self.values.values())
        total = sum(value.nbytes for value in self.values.values())
        self._touch = row_bytes + FAULT_AROUND
        self._touched = 0
        self._block = max(1, RESERVED // sum(value[:1].nbytes for value in self.values.values()))
        self._reserved = 0
        self._advise = sys.platform == "linux" and total > RESIDENT_LIMIT
        self._count = _map(folder / COUNT, Field((), torch.int64), 1)
        _allocate(folder / COUNT, 0, self._count.nbytes)

    @property
    def count(self) -> int:
        """A number that stays with the rows."""
        return int(self._count)

    @count.setter
    def count(self, value: int) -> None:
        self._count.fill_(value)

    def touched(self, rows: int) -> None:
        """Say that so many rows were read or written; now and then, all pages are given back to the system.

        Otherwise the resident memory of the process grows to the size of the files. Nothing is lost: pages that were
        written stay in the system's cache until they are on disk.
        """
        if not self._advise:
            return
        self._touched += rows * self._touch
        if self._touched > RESIDENT_LIMIT:
            self._touched = 0
            libc = ctypes.CDLL(None)
            for value in self.values.values():
                libc.madvise(ctypes.c_void_p(value.data_ptr()), ctypes.c_size_t(value.nbytes), MADV_DONTNEED)

    def reserve(self, rows: int) -> None:
        """Make sure that there is room on the disk for the first rows, and a few more, before they are written.

        A write to a mapped page that finds none ends the process without a word.

        Raises:
            OSError: the disk is full.
        """
        if rows <= self._reserved:
            return
        rows = min(self.rows, -(-rows // self._block) * self._block)
        for name, value in self.values.items():
            width = value[:1].nbytes
            _allocate(self.folder / file_name(name), self._reserved * width, (rows - self._reserved) * width)
        self._reserved = rows

    def flush(self) -> None:
        """Return when all that was written is on disk, with the names of the files."""
        for path in (*sorted(self.folder.glob("*.bin")), self.folder / LAYOUT, self.folder):
            to_disk(path)

    def forget(self) -> None:
        """Leave files that nobody takes for rows: whoever opens the folder starts anew."""
        (self.folder / LAYOUT).unlink()

    def copy_from(self, folder: Path, rows_per_count: int) -> None:
        """Take the rows that were written, and the count, of the same layout in another folder."""
        self.count = int(_map(folder / COUNT, Field((), torch.int64), 1))
        written = min(self.rows, self.count * rows_per_count)
        self.reserve(written)
        for name, value in self.values.items():
            other = _map(folder / file_name(name), Field(tuple(value.shape[1:]), value.dtype), self.rows)
            for place, source in zip(value[:written].split(4096), other[:written].split(4096), strict=True):
                place.copy_(source)
                self.touched(len(place))


def field_bytes(field: Field) -> int:
    """Bytes of an entry in one row."""
    return math.prod(field.shape) * field.dtype.itemsize


def describe_layout(fields: Mapping[str, Field], rows: int) -> dict[str, object]:
    """The layout in plain values."""
    named = {name: [list(field.shape), str(field.dtype)] for name, field in fields.items()}
    return {"rows": rows, "fields": named}


def read_layout(folder: Path) -> dict[str, object] | None:
    """Layout of the files in a folder; None where there are none."""
    try:
        return read_json_object(folder / LAYOUT)
    except ValueError:
        return None


def file_name(field: str) -> str:
    """Name of a field's file; keys may hold characters that a file name cannot."""
    return f"field-{quote(field, safe='')}.bin"


def read_rows(folder: Path, fields: Mapping[str, Field], rows: int) -> dict[str, Tensor]:
    """The first rows of a folder's files by field, mapped for reading alone.

    Raises:
        ValueError: a file is missing, shorter than that, or no plain file; the message names it.
    """
    return {name: _map(folder / file_name(name), field, rows, shared=False) for name, field in fields.items()}


def read_count(folder: Path) -> int:
    """The number that stays with the rows of a folder.

    Raises:
        ValueError: its file is missing or damaged.
    """
    count = int(_map(folder / COUNT, Field((), torch.int64), 1, shared=False))
    if count < 0:
        raise ValueError(f"{folder / COUNT} is damaged; remove the folder {folder} to go on with new rows")
    return count


def _allocate(path: Path, start: int, size: int) -> None:
    """Make room on the disk for bytes of a file, where the system can.

    Raises:
        OSError: the disk is full; it names the file and the room that is needed.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    file = os.open(path, os.O_RDWR)
    try:
        os.posix_fallocate(file, start, size)
    except OSError as error:
        raise about_file(error, path, size) from error
    finally:
        os.close(file)


def _map(path: Path, field: Field, rows: int, shared: bool = True) -> Tensor:
    if path.is_symlink() or (path.exists() and not path.is_file()):  # what is written would land elsewhere
        raise ValueError(f"{path} is no plain file: rows of a replay are not kept in what it leads to; remove it")
    shape = (rows, *field.shape)
    size = math.prod(shape)
    if not shared and not (path.is_file() and path.stat().st_size >= size * field.dtype.itemsize):
        raise ValueError(
            f"{path} is missing, or has lost its end; remove the folder {path.parent} to go on with new rows"
        )
    return torch.from_file(str(path), shared=shared, size=size, dtype=field.dtype).view(shape)
