"""Checksums of a replay's rows: every field of every row, each read once however many checkpoints there are."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datamodules.replay.memory_mapped_rows import MemoryMappedRows, file_name
from datamodules.replay.ring_buffer import RingBuffer

BLOCK = 256
"""Rows of each stream whose checksum is kept once all of them are written: rows never change before they are dropped.
At a checkpoint, what was written since the last one is read, and less than two blocks besides."""


class RowChecksums:
    """CRC-32 of the fields of all rows that can be sampled.

    Args:
        ring: where the rows are.
        files: files that hold them.
        apart: names of fields that change after they were written; a checkpoint keeps them itself.
    """

    def __init__(self, ring: RingBuffer, files: MemoryMappedRows, apart: tuple[str, ...] = ()) -> None:
        self._ring = ring
        self._files = files
        self._names = [name for name in files.values if name not in apart]
        self._known: dict[int, dict[str, int]] = {}  # by block, of those that are full

    def by_field(self) -> dict[str, int]:
        """One number for each field: the checksum of those of its blocks, which belong to the count of rows."""
        oldest, count = self._ring.oldest, self._ring.count
        sums = dict.fromkeys(self._names, 0)
        blocks = range(oldest // BLOCK, -(-count // BLOCK))
        for block in blocks:
            start, stop = max(oldest, block * BLOCK), min(count, (block + 1) * BLOCK)
            read = self._known.get(block) if stop - start == BLOCK else None
            if read is None:
                read = self.read(start, stop)
                if stop - start == BLOCK:
                    self._known[block] = read
            for name in self._names:
                sums[name] = zlib.crc32(read[name].to_bytes(4), sums[name])
        self._known = {block: read for block, read in self._known.items() if block in blocks}
        return sums

    def forget(self) -> None:
        """Read all rows anew at the next checkpoint: some may have changed in their places."""
        self._known = {}

    def read(self, start: int, stop: int) -> dict[str, int]:
        """Checksums by field of the rows of all streams between two times."""
        sums = dict.fromkeys(self._names, 0)
        streams = self._ring.streams
        for a, b in self._ring.spans(start, stop):
            for name in self._names:
                rows = self._files.values[name][a * streams : b * streams]
                sums[name] = zlib.crc32(rows.numpy().data, sums[name])
            self._files.touched((b - a) * streams)
        return sums

    def are(self, saved: Mapping[str, Any], source: Path) -> bool:
        """Whether the rows that can be sampled are those of a checkpoint.

        Args:
            saved: result of `by_field` at the checkpoint, for the same count.
            source: folder that they are from.

        Returns:
            False where they were overwritten since, as the count that stays with the rows says, or were never here.

        Raises:
            ValueError: they should be here, and have changed; the message names the file.
        """
        self.forget()
        changed = [name for name, checksum in self.by_field().items() if saved.get(name) != checksum]
        if not changed:
            return True
        self.forget()  # of rows that count no more
        margin = self._ring.length - self._ring.capacity
        if not self._ring.count <= self._files.count <= self._ring.count + margin:
            return False
        if source != self._files.folder:
            self._files.forget()  # or the copy would be taken for the run's own next time
        raise ValueError(damaged(source, changed[0]))


def damaged(folder: Path, field: str) -> str:
    """Message for a field whose rows in a folder are not those of the checkpoint, and no later ones either."""
    return (
        f"{folder / file_name(field)} is damaged: its rows are not those of the checkpoint, and no later ones either; "
        f"remove the folder {folder} to go on with new rows"
    )
