"""Datasets as a stranger might make them: each function writes one into a folder and returns what to name as source."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from tiny_dataset import make_arrays, write_hdf5, write_memmap, write_minari

from datamodules.recorded.conversion import convert

Maker = Callable[[Path], Path]


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.h5")
    return folder / "pipe.h5"


def linked_device(folder: Path) -> Path:
    (folder / "zero.npz").symlink_to("/dev/zero")
    return folder / "zero.npz"


def listening(folder: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "s.h5"))
    return folder / "s.h5"


def inside_memmap(add: Callable[[Path], object]) -> Maker:
    def make(folder: Path) -> Path:
        source = write_memmap(folder / "td", make_arrays())
        add(source)
        return source

    return make


def inside_minari(add: Callable[[Path], object]) -> Maker:
    def make(folder: Path) -> Path:
        source = folder / "minari" / write_minari(make_arrays(), "hdf5")
        add(source / "data")
        return source

    return make


def minari_says(change: Callable[[dict], object]) -> Maker:
    """A Minari dataset whose metadata were changed by hand."""

    def edit(folder: Path) -> None:
        metadata = json.loads((folder / "metadata.json").read_text())
        change(metadata)
        (folder / "metadata.json").write_text(json.dumps(metadata))

    return inside_minari(edit)


def deep_wrapper(metadata: dict) -> None:
    """Arguments of a wrapper in lists within lists, in a dataset without spaces of its own."""
    kwargs = {"max_episode_steps": json.loads("[" * 700 + "]" * 700)}
    wrapper = {"name": "TimeLimit", "entry_point": "gymnasium.wrappers.common:TimeLimit", "kwargs": kwargs}
    metadata.pop("observation_space")
    metadata["env_spec"] = json.dumps({"id": "Pendulum-v1", "additional_wrappers": [wrapper]})


def out_of_folder(folder: Path) -> None:
    (folder / "next" / "reward.memmap").unlink()
    (folder / "next" / "reward.memmap").symlink_to("/etc/passwd")


def loop(folder: Path) -> None:
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")


def sparse(folder: Path) -> Path:
    path = write_hdf5(folder / "hole.h5", make_arrays())
    os.truncate(path, 1 << 40)
    return path


def hdf5(change: Callable[[h5py.File], object]) -> Maker:
    def make(folder: Path) -> Path:
        path = write_hdf5(folder / "x.h5", make_arrays(), {"name": "x"})
        with h5py.File(path, "a") as file:
            change(file)
        return path

    return make


def put(name: str, value: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = value

    return change


def declare(name: str, shape: tuple[int, ...], dtype: str = "f4", **options: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, shape, dtype, **options)

    return change


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((12,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "rewards", shape=(12,))
    del file["rewards"]
    file.create_virtual_dataset("rewards", layout)


def through_a_group(file: h5py.File) -> None:
    file["far"] = h5py.ExternalLink("other.h5", "/")
    put("rewards", h5py.SoftLink("/far/rewards"))(file)


def links_in_a_circle(file: h5py.File) -> None:
    file["a"] = h5py.SoftLink("/b")
    file["b"] = h5py.SoftLink("/a")


def outside_minari(data: Path) -> None:
    with h5py.File(data / "main_data.hdf5", "a") as file:
        put("episode_0/rewards", h5py.ExternalLink("other.h5", "/rewards"))(file)


def declared_in_parquet(folder: Path) -> Path:
    source = folder / "minari" / write_minari(make_arrays(), "parquet")
    part = next((source / "data" / "1").glob("*.parquet"))
    values = pa.DictionaryArray.from_arrays(pa.array(np.zeros(10**7, np.int8)), pa.array([0.5]))
    parquet.write_table(pa.table({"rewards": values}), part, compression="zstd")
    return source


def meta(value: object) -> Maker:
    return hdf5(lambda file: file.attrs.__setitem__("meta", value))


def npz(**changes: object) -> Maker:
    def make(folder: Path) -> Path:
        np.savez(folder / "x.npz", **(make_arrays() | changes))
        return folder / "x.npz"

    return make


def packed_by_lzma(folder: Path) -> Path:
    path = npz()(folder)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def bare(folder: Path) -> Path:
    np.save(folder / "x.npy", np.zeros(3))
    return (folder / "x.npy").rename(folder / "x.npz")


def with_member(name: str, content: bytes, **options: object) -> Maker:
    """An NPZ file with one more, hand-made member."""

    def make(folder: Path) -> Path:
        arrays = {key: value for key, value in make_arrays().items() if key != name}
        np.savez(folder / "x.npz", **arrays)
        with zipfile.ZipFile(folder / "x.npz", "a", **options) as archive:
            archive.writestr(f"{name}.npy", content)
        return folder / "x.npz"

    return make


def header(shape: str, dtype: str = "'<f4'") -> bytes:
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (117 - len(text) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def bomb(folder: Path) -> Path:
    """Sixty-four MiB and a little of zeros in 66 kB."""
    content = io.BytesIO()
    np.save(content, np.zeros((1 << 24) + 1000, np.float32))
    return with_member("rewards", content.getvalue(), compression=zipfile.ZIP_DEFLATED)(folder)


def twice(folder: Path) -> Path:
    path = npz()(folder)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("rewards.npy", archive.read("rewards.npy"))
    return path


def described(change: Callable[[dict], object], part: str = "meta.json") -> Maker:
    """A memmap folder whose metadata were changed by hand."""

    def edit(folder: Path) -> None:
        entries = json.loads((folder / part).read_text())
        changed = change(entries)
        (folder / part).write_text(json.dumps(entries if changed is None else changed))

    return inside_memmap(edit)


def converted(change: Callable[[dict], object]) -> Maker:
    """A converted dataset whose description was changed by hand."""

    def make(folder: Path) -> Path:
        source = write_hdf5(folder / "a.h5", make_arrays())
        target = folder / "moved"
        shutil.move(convert([source], cache_dir=folder / "first").folder, target)
        entries = json.loads((target / "dataset.json").read_text())
        changed = change(entries)
        (target / "dataset.json").write_text(json.dumps(entries if changed is None else changed))
        return target

    return make
