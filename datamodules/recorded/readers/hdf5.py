"""Reader of flat HDF5 files, in D4RL's layout or with `final_observations`; nothing outside the file is read."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
from h5py import h5d, h5f, h5l, h5o

from datamodules.recorded.description import Description
from datamodules.recorded.readers.flat import FlatFields
from datamodules.recorded.source_meta import Meta, read_meta
from modules.trust.files import check_declared
from modules.trust.names import short

# What h5py raises on files that are cut off or damaged.
DAMAGE = (OSError, RuntimeError, KeyError, TypeError, OverflowError, MemoryError)


def read_hdf5(path: Path) -> Description:
    """Describe a flat HDF5 file; steps are streamed from it.

    Raises:
        ValueError: the file cannot be opened, points to other files, declares more than it holds, or fields are missing
            or of different lengths.
    """
    with opened(path) as file:
        meta = read_meta(path, file.attrs["meta"]) if "meta" in file.attrs else Meta()
        arrays = {key: value for key, value in file.items() if isinstance(value, h5py.Dataset)}
        flat = FlatFields(path, arrays)
        layout = "hdf5" if "meta" in file.attrs or flat.final is not None else "d4rl"
    return flat.description(layout, meta, lambda: opened(path))


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file that is whole in itself, open for reading.

    Raises:
        ValueError: it is damaged, points to other files, or declares more than it holds.
    """
    try:
        with h5py.File(path, "r") as file:
            check_own_content(path, file)
            yield file
    except ValueError as error:
        if str(error).startswith(str(path)):  # ours
            raise
        raise ValueError(f"{path} cannot be read as HDF5: {short(str(error), 200)}") from error
    except DAMAGE as error:
        raise ValueError(
            f"{path} is not a readable HDF5 file (truncated, damaged, or of another format): {short(str(error), 200)}"
        ) from error


def check_own_content(path: Path, file: h5py.File) -> None:
    """Refuse whatever would be read from elsewhere, or from nowhere.

    Raises:
        ValueError: a link or the storage of a dataset points to another file, a link leads nowhere, or the datasets
            declare more bytes than the file can hold.
    """
    links: list[tuple[bytes, int]] = []
    objects: list[tuple[bytes, int]] = []
    # Both visits follow no link to elsewhere. They only collect: an error raised inside would end as another one.
    file.id.links.visit(lambda name, info: links.append((name, info.type)), info=True)
    for name, kind in links:
        if kind == h5l.TYPE_EXTERNAL:
            other = short(os.fsdecode(file.id.links.get_val(name)[0]))
            raise ValueError(
                f"{path}: {short(os.fsdecode(name))} is a link to another file ({other}), which is not followed; "
                "copy the data into one file"
            )
    h5o.visit(file.id, lambda name, info: objects.append((name, info.type)), info=True)
    declared = sum(_declared(path, file.id, name) for name, kind in objects if kind == h5o.TYPE_DATASET)
    check_declared(path, "it", declared, path.stat().st_size)


def _declared(path: Path, file: h5f.FileID, name: bytes) -> int:
    """Bytes that reading a dataset takes: of all its rows, and at the least of one chunk."""
    dataset = h5d.open(file, name)
    properties = dataset.get_create_plist()
    layout = properties.get_layout()
    if layout == h5d.VIRTUAL or properties.get_external_count():
        raise ValueError(
            f"{path}: {short(os.fsdecode(name))} keeps its values in other places (virtual or external storage), "
            "which are not read; copy the data into one file"
        )
    chunk = properties.get_chunk() if layout == h5d.CHUNKED else ()
    return dataset.get_type().get_size() * max(math.prod(dataset.shape or ()), math.prod(chunk))
