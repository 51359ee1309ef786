"""Reader of NPZ files with the fields of flat files; no pickled object is ever loaded."""

from __future__ import annotations

import math
import zipfile
import zlib
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from datamodules.recorded.description import Description
from datamodules.recorded.readers.flat import FIELDS, FlatFields
from datamodules.recorded.source_meta import Meta, read_meta
from modules.arguments.memory import check_memory
from modules.trust.files import check_declared, count
from modules.trust.names import short

MAGIC = b"\x93NUMPY"
# What zipfile raises on archives that are cut off, damaged, encrypted or packed by an unknown method.
DAMAGE = (OSError, EOFError, RuntimeError, KeyError, zipfile.BadZipFile, zlib.error)


def read_npz(path: Path) -> Description:
    """Describe an NPZ file. Only the fields that are needed are read, into memory.

    Raises:
        ValueError: the file cannot be opened, declares more than it holds or than fits in memory, a field holds pickled
            objects, or fields are missing or of different lengths.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = _read_arrays(path, archive)
    except DAMAGE as error:
        with open(path, "rb") as handle:
            bare = handle.read(len(MAGIC)) == MAGIC
        kind = "it is one bare array (.npy), not" if bare else "truncated, or pickled or of another format, instead of"
        raise ValueError(
            f"{path} is not a readable NPZ file ({kind} what np.savez writes): {short(str(error), 200)}"
        ) from error
    meta = read_meta(path, arrays.pop("meta")) if "meta" in arrays else Meta()
    flat = FlatFields(path, arrays)
    return flat.description("npz", meta, lambda: nullcontext(arrays))


def _read_arrays(path: Path, archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    """The known fields of an archive, after a look at how much all of them declare."""
    members = [(info.filename.removesuffix(".npy"), info) for info in archive.infolist()]
    members = [(name, info) for name, info in members if name in FIELDS]
    twice = {name for name, _ in members if sum(name == other for other, _ in members) > 1}
    if twice:
        raise ValueError(f"{path}: it holds {', '.join(sorted(twice))} twice; write each field once")
    for name, info in members:
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # LZMA for one asks for as much memory as it declares.
            raise ValueError(f"{path}: {name} is packed in a way that np.savez and np.savez_compressed never use")
    declared = {name: _declared(path, name, archive, info) for name, info in members}
    check_declared(path, "it", sum(declared.values()), path.stat().st_size)
    check_memory(str(path), sum(declared.values()), "write the dataset as HDF5, which is read in parts")
    arrays = {}
    for name, info in members:
        with archive.open(info) as handle:
            try:
                arrays[name] = np.lib.format.read_array(handle, allow_pickle=False)
            except ValueError as error:
                raise ValueError(f"{path}: {name} cannot be read: {short(str(error), 200)}") from error
    return arrays


def _declared(path: Path, name: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    """Bytes of an array by its own header, which must be those of its part of the archive.

    Raises:
        ValueError: it is no array, holds pickled objects, or its header declares another size than is there.
    """
    with archive.open(info) as handle:
        try:
            version = np.lib.format.read_magic(handle)
            if version not in ((1, 0), (2, 0)):
                raise ValueError(f"arrays of version {version} hold no plain numbers")
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(handle)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
            raise ValueError(f"{path}: {name} is no readable array: {short(str(error), 200)}") from error
        header = handle.tell()
    if dtype.hasobject:
        raise ValueError(
            f"{path}: {name} holds pickled Python objects, which are refused because loading them runs code; "
            "save plain numeric arrays with np.savez"
        )
    declared = math.prod(shape) * dtype.itemsize
    if declared != info.file_size - header:
        raise ValueError(
            f"{path}: {name} declares shape {short(shape)} of {short(str(dtype))}, {count(declared)} bytes, and the "
            f"archive holds {info.file_size - header:,}; it is damaged"
        )
    return declared
