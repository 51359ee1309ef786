"""Which files a dataset may consist of, checked before any is read: datasets come from strangers.

A dataset is a regular file, or a folder of regular files and folders. Pipes, sockets and devices are refused, because
reading them waits for ever or never ends, as are symbolic links that lead out of the folder, and sizes that are
declared and not there: what a file asks for in memory is bounded by what it holds.
"""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any

from modules.trust.names import short

FREE_BYTES = 1 << 26
EXPANSION = 200
METADATA_BYTES = 1 << 26


def source_files(source: Path) -> list[Path]:
    """The files of a dataset in a fixed order, none of them opened yet.

    Args:
        source: the file itself, or a folder.

    Raises:
        ValueError: a pipe, socket or device is among them, a symbolic link that leaves the folder or leads to a
            folder, or a file that is mostly a hole.
    """
    mode = source.stat().st_mode
    if not stat.S_ISDIR(mode):
        _check_regular(source, mode)
        return [source]
    files = []
    for folder, names, entries in os.walk(source):
        for name in (*names, *entries):
            if not name.isprintable():
                raise ValueError(f"{source} holds a file named {short(name)}; rename it, if it belongs to the dataset")
            path = Path(folder) / name
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                mode = _check_link(path, source)
            if not stat.S_ISDIR(mode):
                _check_regular(path, mode)
                files.append(path)
    return sorted(files)


def _check_link(path: Path, source: Path) -> int:
    """Mode of the file that a symbolic link in the folder `source` leads to."""
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop
        raise ValueError(f"{path} is a symbolic link that leads nowhere; remove it") from error
    mode = target.stat().st_mode
    if not target.is_relative_to(source.resolve()) or stat.S_ISDIR(mode):
        raise ValueError(
            f"{path} is a symbolic link that leads out of the dataset or to a folder, which is not followed; "
            f"copy the dataset with its files: cp -rL {source} NEW_FOLDER"
        )
    return mode


def _check_regular(path: Path, mode: int) -> None:
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
    if not stat.S_ISREG(mode):
        raise ValueError(
            f"{path} is {kinds.get(stat.S_IFMT(mode), 'no regular file')}, and datasets are read from files alone; "
            "write its content to a file first"
        )
    size = path.stat()
    # A file system that tells no holes apart counts them all as data, and one that tells no sizes has 0 blocks.
    if declares_too_much(size.st_size, size.st_blocks * 512):
        check_declared(path, "it", size.st_size, _bytes_on_disk(path))


def _bytes_on_disk(path: Path) -> int:
    """Bytes of a file that are no hole; counts no further than needed to believe its size."""
    size, found, position = path.stat().st_size, 0, 0
    with open(path, "rb") as handle:
        while declares_too_much(size, found):
            try:
                start = os.lseek(handle.fileno(), position, os.SEEK_DATA)
            except OSError:  # no data after this position
                break
            position = os.lseek(handle.fileno(), start, os.SEEK_HOLE)
            found += position - start
    return found


def declares_too_much(declared: int, stored: int) -> bool:
    """Whether so many bytes are more than a file with `stored` bytes can be believed to hold.

    64 MiB are always believed: constant fields of small datasets compress to nothing. Above that it is 200 times what
    is stored, where recorded steps compress up to about 50 times.
    """
    return declared > max(FREE_BYTES, EXPANSION * stored)


def check_declared(location: object, what: str, declared: int, stored: int) -> None:
    """Refuse contents that a file declares and cannot hold, before memory is asked for.

    Raises:
        ValueError: more than 64 MiB and more than 200 times the stored bytes are declared.
    """
    if declares_too_much(declared, stored):
        raise ValueError(
            f"{location}: {what} declares {count(declared)} bytes where {stored:,} are stored; above {FREE_BYTES:,} "
            f"no more than {EXPANSION} times the stored size is read. Write the dataset again, less compressed"
        )


def count(number: int) -> str:
    """A number for people; a declared one may have hundreds of digits."""
    return f"{number:,}" if number < 10**18 else "more than 10^18"


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ValueError: the file is missing, damaged, larger than 64 MiB, or holds another kind of value.
    """
    try:
        _check_regular(path, path.stat().st_mode)
        if path.stat().st_size > METADATA_BYTES:
            raise ValueError(f"it has {path.stat().st_size:,} bytes, more than metadata need")
        text = path.read_text()
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is missing or damaged: {short(str(error), 200)}") from error
    return json_object(path, text)


def json_object(location: object, text: str | bytes) -> dict[str, Any]:
    """The JSON object that a text holds.

    Raises:
        ValueError: it is no JSON, or another kind of value.
    """
    try:
        value = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{location} is truncated or damaged, no JSON: {short(str(error), 200)}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{location} holds a JSON {type(value).__name__}, an object of names and values is needed")
    return value


def finite(value: Any) -> bool:
    """Whether this is a number that a float can hold; an integer of a file may have hundreds of digits."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:
        return False
