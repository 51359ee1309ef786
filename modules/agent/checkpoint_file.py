"""Checkpoint files, read without running what they may hold."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from modules.trust.checkpoint_contents import check_contents
from modules.trust.checkpoint_pickle import NotPlain, check_pickle
from modules.trust.names import short


def read_checkpoint(path: str | Path, map_location: Any = None) -> dict[str, Any]:
    """Read the content of a checkpoint file without running any code that it may contain.

    Its checksums are compared: 0.4 s for 500 MB.

    Raises:
        ValueError: the file is missing, truncated or damaged, holds more than tensors and plain values, holds no model,
            or values of other kinds than reverie writes.
    """
    if not Path(path).is_file():
        raise ValueError(f"no checkpoint file at {path}")
    if not zipfile.is_zipfile(path):  # looks for the directory at the end, which a truncated file has lost
        raise ValueError(f"checkpoint {path} is truncated, or is no checkpoint at all; use another one")
    try:
        check_archive(path)
        loaded = torch.load(path, map_location, weights_only=True)
    except NotPlain as error:
        raise ValueError(
            f"{path} is no checkpoint of tensors and plain values: it holds {error}; it is not loaded, as that "
            "could run any code"
        ) from error
    except (RuntimeError, EOFError, OSError, LookupError, TypeError, AttributeError, AssertionError, ValueError,
            MemoryError, OverflowError, zipfile.BadZipFile, pickle.UnpicklingError) as error:  # fmt: skip
        reason = short(str(error).split("\n", 1)[0] or type(error).__name__, 200)
        raise ValueError(f"checkpoint {path} is damaged ({reason}); use another one") from error
    if not isinstance(loaded, dict) or "state_dict" not in loaded:
        raise ValueError(f"{path} was not written by reverie: it holds no model")
    check_contents(loaded, path)
    return loaded


def check_archive(path: str | Path) -> None:
    """Refuse an archive that torch does not write, or whose entries or instructions torch would not read as they are.

    torch finds the directory, and its entries by name, in another way than Python does, and compares no checksum: what
    is looked at here must be what torch loads.

    Raises:
        NotPlain: its pickle names something else than tensors are made of.
        ValueError: bytes have changed; an entry is compressed, or there twice; the archive does not fill the file; or
            its pickle is none of reverie's.
        BadZipFile: it is damaged in another way.
    """
    with open(path, "rb") as stored:
        size = Path(path).stat().st_size
        _check_ends(stored, size)
        with zipfile.ZipFile(stored) as file:
            entries = file.infolist()
            for entry in entries:
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"{short(entry.filename)} is compressed")
            declared = sum(entry.file_size for entry in entries)
            if declared > size:  # entries that share bytes would be read without end
                raise ValueError(f"its entries declare {declared:,} bytes, more than it has")
            folder = entries[0].filename.partition("/")[0] if entries else ""
            names = {entry.filename.lower(): entry for entry in entries if entry.filename.startswith(f"{folder}/")}
            if len(names) != len(entries):  # torch looks names up without regard to case
                raise ValueError("its entries are not in one folder, or one is there twice")
            changed = file.testzip()
            if changed:
                raise ValueError(f"the bytes of {short(changed)} have changed since it was written")
            if f"{folder}/data.pkl".lower() not in names:
                raise ValueError("it has no data.pkl")
            storages = {name.removeprefix(f"{folder}/data/".lower()): entry.file_size for name, entry in names.items()}
            check_pickle(file.read(names[f"{folder}/data.pkl".lower()]), storages)


def _check_ends(stored: BinaryIO, size: int) -> None:
    """Refuse a file with anything before, after or between the entries of the archive and its one directory.

    Raises:
        ValueError: it starts with something else, or the directory is not where the end of the file says it is.
    """
    if stored.read(4) != b"PK\x03\x04":
        raise ValueError("it does not begin as torch's files do")
    # The record at the end has 22 bytes; before it, archives of 64 bits have a record of 56 and its locator of 20.
    stored.seek(max(size - 98, 0))
    tail = stored.read().rjust(98, b"\0")
    signature, *_, length, place, comment = struct.unpack("<4s4H2IH", tail[-22:])
    end = size - 22
    if tail[56:60] == b"PK\x06\x07":  # of archives that may be larger than 4 GiB
        end = size - 98
        signature_64, *_, length, place = struct.unpack("<4sQ2H2I4Q", tail[:56])
        if signature_64 != b"PK\x06\x06" or struct.unpack("<4sIQI", tail[56:76])[2] != end:
            raise ValueError("its directory is not where it should be")
    if signature != b"PK\x05\x06" or comment or place + length != end:
        raise ValueError("its directory is not where it should be")


def bytes_of(content: Any) -> int:
    """Bytes of all tensors in a nesting of mappings, lists and tuples."""
    if isinstance(content, Tensor):
        return content.nbytes
    inner = content.values() if isinstance(content, Mapping) else content if isinstance(content, list | tuple) else ()
    return sum(map(bytes_of, inner))
