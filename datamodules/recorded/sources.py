"""Find out what a source is, open it, and hash its content."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import minari

from datamodules.recorded.description import Description
from datamodules.recorded.readers.hdf5 import opened, read_hdf5
from datamodules.recorded.readers.memmap import read_memmap
from datamodules.recorded.readers.minari_dataset import minari_folder, payload, read_minari
from datamodules.recorded.readers.npz import read_npz
from modules.trust.files import check_declared, source_files
from modules.trust.names import short

READERS: dict[str, Callable[[Path], Description]] = {
    "hdf5": read_hdf5,
    "npz": read_npz,
    "minari": read_minari,
    "memmap": read_memmap,
}
SUFFIXES = {".h5": "hdf5", ".hdf5": "hdf5", ".npz": "npz"}
MINARI_ID = re.compile(r"([\w-]+/)*[\w-]+-v\d+")
HASH_BLOCK = 1 << 22
LARGEST_NUMBER = 8


def how_to_get(source: str) -> str:
    """The command to type for a Minari dataset that is not on this machine."""
    if source.removeprefix("data/minari/") == "pendulum/mixed-v0":  # what the default run learns from
        return "make it with `reverie collect --config collect/pendulum`"
    return f"fetch it with `reverie datasets check {source} --download true`"


def source_path(source: str | Path, format: str = "auto", download: bool = False) -> Path:
    """The file or folder that a source names: a path, or the id of a Minari dataset on this machine.

    Args:
        source: path or Minari id.
        format: `auto` or the name of a reader.
        download: fetch a Minari dataset that is not on this machine.

    Raises:
        ValueError: there is no such file, folder or dataset, the format is unknown, or a download needs a package.
    """
    if format not in ("auto", *READERS):
        raise ValueError(f"unknown dataset format {format!r}; use auto, {', '.join(READERS)}")
    path = Path(source).expanduser()
    if path.exists():
        return path
    if format not in ("auto", "minari") or not MINARI_ID.fullmatch(str(source)):
        raise ValueError(f"no dataset at {source}: there is no such file or folder")
    folder = minari_folder(str(source))
    if not folder.exists() and download:
        print(f"downloading {source} with Minari", flush=True)
        try:
            minari.download_dataset(str(source))
        except Exception as error:  # the border to a network, and to Minari's own packages for it
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            raise ValueError(f"{source} cannot be downloaded ({reason})") from error
    if not folder.exists():
        raise ValueError(
            f"no dataset {source}: neither a file nor a Minari dataset at {folder}; {how_to_get(str(source))}, or see "
            "`reverie datasets list`"
        )
    return folder


def detect_format(path: Path) -> str:
    """Name of the layout of a file or folder.

    Raises:
        ValueError: it is none of the known ones.
    """
    if path.is_dir():
        if payload(path) is not None:
            return "minari"
        if (path / "meta.json").is_file():
            return "memmap"
        raise ValueError(
            f"{path}: cannot tell its format: a folder is a Minari dataset (data/metadata.json) or a TensorDict "
            "(meta.json), and this has neither"
        )
    if path.suffix in SUFFIXES:
        return SUFFIXES[path.suffix]
    if h5py.is_hdf5(path):
        return "hdf5"
    if zipfile.is_zipfile(path):
        return "npz"
    raise ValueError(f"{path}: cannot tell its format: neither HDF5 nor NPZ; datasets are {', '.join(READERS)}")


def check_format(path: Path, format: str) -> None:
    """Refuse what is no dataset, or another one, before it is read through: a folder may hold anything.

    Raises:
        ValueError: it is of no known format, a pipe or a device, or a folder of another format.
    """
    if not path.is_dir():
        source_files(path)
    if path.is_dir() or format == "auto":
        found = detect_format(path)
        if format not in ("auto", found):
            raise ValueError(f"{path} is of the format {found}, not {format}; set format: {found}")


def open_source(path: Path, format: str = "auto") -> Description:
    """Describe a source, with its steps ready to be read.

    Raises:
        ValueError: the source is unreadable or incomplete, or an HDF5 file in its folder points to other files.
    """
    if path.is_dir():  # Minari's own reader follows every link, and asks for what a file declares
        for file in source_files(path):
            if file.suffix == ".parquet":
                _check_parquet(file)
            elif h5py.is_hdf5(file):
                with opened(file):
                    pass
    return READERS[detect_format(path) if format == "auto" else format](path)


def _check_parquet(file: Path) -> None:
    """Refuse a Parquet file that declares more numbers than it can hold.

    Raises:
        ValueError: it does, or it is damaged.
    """
    from pyarrow import ArrowException, parquet  # here, because it takes half a second and few datasets are Parquet

    try:
        metadata = parquet.read_metadata(file)
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        values = sum(group.column(index).num_values for group in groups for index in range(group.num_columns))
    except (OSError, ValueError, ArrowException) as error:
        raise ValueError(f"{file} is truncated or damaged: {short(str(error), 200)}") from error
    check_declared(file, "it", LARGEST_NUMBER * values, file.stat().st_size)


def content_hash(path: Path) -> str:
    """SHA-256 over the bytes of a file, or over the names and bytes of all files of a folder.

    Raises:
        ValueError: something in it is no regular file.
    """
    digest = hashlib.sha256()
    for file in source_files(path):
        if path.is_dir():
            digest.update(f"{file.relative_to(path).as_posix()}\0{file.stat().st_size}\0".encode())
        with open(file, "rb") as handle:
            while block := handle.read(HASH_BLOCK):
                digest.update(block)
    return digest.hexdigest()
