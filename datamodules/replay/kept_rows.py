"""Rows of a storage that is not in files, kept in files at every checkpoint: numbers alone, with their checksums."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from datamodules.replay.memory_mapped_rows import Field, MemoryMappedRows, describe_layout, read_layout
from modules.disk import to_disk

KEPT, ASIDE = "kept", "kept.part"
"""Folder of the rows, and of those that are not complete yet."""


def keep_rows(
    folder: Path, fields: Mapping[str, Field], rows: int, parts: Iterable[Mapping[str, Tensor]], count: int
) -> dict[str, int]:
    """Write rows in place of those that are kept in a folder: aside first, so that they are never half there.

    Args:
        folder: folder of the replay.
        fields: fields by name.
        rows: number of rows that there is room for.
        parts: `[n, ...]` values by field, one part after the other.
        count: number that stays with the rows.

    Returns:
        CRC-32 of the rows by field.
    """
    kept, aside = folder / KEPT, folder / ASIDE
    if aside.exists():
        shutil.rmtree(aside)
    files = MemoryMappedRows(aside, fields, rows)
    done = 0
    for part in parts:
        start, done = done, done + len(next(iter(part.values())))
        files.reserve(done)
        for name, values in part.items():
            files.values[name][start:done] = values
    files.count = count
    files.flush()
    sums = _checksums({name: values[:done] for name, values in files.values.items()})
    if kept.exists():
        shutil.rmtree(kept)
    aside.rename(kept)
    to_disk(folder)
    return sums


def find_rows(folders: Iterable[Path], fields: Mapping[str, Field], rows: int) -> Path | None:
    """Folder of the rows that are kept in the first of these folders that has any of this layout; None for none."""
    layout = describe_layout(fields, rows)
    return next((folder / KEPT for folder in folders if read_layout(folder / KEPT) == layout), None)


def changed_fields(rows: Mapping[str, Tensor], saved: Mapping[str, int]) -> list[str]:
    """Names of fields that have other checksums than those of a checkpoint."""
    return [name for name, checksum in _checksums(rows).items() if saved.get(name) != checksum]


def _checksums(rows: Mapping[str, Tensor]) -> dict[str, int]:
    return {name: zlib.crc32(values.numpy().data) for name, values in rows.items()}
