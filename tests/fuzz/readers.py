"""Kinds of files that are fuzzed: for each a good one, how it is changed, and who reads it."""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from checkpoint_files import write_checkpoint
from guarded import guarded
from hypothesis import strategies as st
from mutations import arrays, changed_bytes, changed_tree, classes, plain, tensors
from tiny_dataset import make_arrays, write_minari

import reverie
from commands.config_files import ConfigFile, dump, yaml_words
from commands.lightning import import_classes
from datamodules.recorded.card import describe
from datamodules.recorded.conversion import convert

Check = Callable[[st.DataObject, Path], None]
"""Draw a file, write it into an empty folder, and read it under watch."""

META = {"name": "tiny", "env_id": "Pendulum-v1", "ref_random": -1200.0, "ref_expert": -150.0}
CONFIGS = ("atac/pendulum", "a2c/catch", "dreamer/catch", "muzero/cartpole", "moe/mixture")
SNIPPETS = (
    b"&a [*a]", b"<<: *a", b"!!python/object/apply:os.system [touch canary]", b"\t", b"- ", b": ", b"? ", b"|\n",
    b"---\n", b"{" * 40, b"[" * 200, b"1e999", b"2020-01-01", b"\x00", b"%YAML 9.9\n", b"!!binary aGE=",
)  # fmt: skip
"""Signs that are special in YAML."""


@contextmanager
def empty_folder() -> Any:
    """A folder that is gone afterwards, whatever was written into it."""
    with tempfile.TemporaryDirectory(prefix="fuzz") as name:
        yield Path(name)


@cache
def good(kind: str) -> Any:
    """A good file of a kind, made once: a checkpoint's content, or the files of a Minari folder."""
    with empty_folder() as folder:
        if kind == "checkpoint":
            write_checkpoint(folder / "good.ckpt")
            return torch.load(folder / "good.ckpt", weights_only=True)
        kept = os.environ.get("MINARI_DATASETS_PATH")
        os.environ["MINARI_DATASETS_PATH"] = str(folder)
        try:
            name = write_minari(make_arrays(), kind)
        finally:
            os.environ.pop("MINARI_DATASETS_PATH") if kept is None else os.environ.update(MINARI_DATASETS_PATH=kept)
        data = folder / name
        return {str(path.relative_to(data)): path.read_bytes() for path in sorted(data.rglob("*")) if path.is_file()}


# -------------------------------------------------------------------------------------------------------------- configs
def read_config(path: Path) -> None:
    """As a command does; what YAML says is put in words where commands do."""
    import yaml

    try:
        ConfigFile.read(path)
    except yaml.YAMLError as error:
        raise ValueError(yaml_words(error)) from error


def config_text(data: st.DataObject, folder: Path) -> None:
    """Bytes of a config, with what is special in YAML, and the reader alone."""
    content = (reverie_configs() / f"{data.draw(st.sampled_from(CONFIGS))}.yaml").read_bytes()
    place = data.draw(st.integers(0, len(content)))
    content = content[:place] + data.draw(st.sampled_from(SNIPPETS) | st.just(b"")) + content[place:]
    path = folder / "config.yaml"
    path.write_bytes(data.draw(st.just(content) | changed_bytes(content)))
    guarded(lambda: read_config(path), path.stat().st_size)


def config_tree(data: st.DataObject, folder: Path) -> None:
    """Keys and values of a config, and the whole parser."""
    config = ConfigFile.read(reverie_configs() / f"{data.draw(st.sampled_from(CONFIGS))}.yaml").content
    path = folder / "config.yaml"
    path.write_text(dump(data.draw(changed_tree(config, plain))))
    import_classes()  # which takes seconds the first time, and is not what is watched
    guarded(lambda: reverie.main(["fit", "--config", str(path), "--print_config"]), path.stat().st_size)


def reverie_configs() -> Path:
    """Folder of the committed configs."""
    return Path(__file__).parents[2] / "configs"


# ---------------------------------------------------------------------------------------------------------- checkpoints
def checkpoint_tree(data: st.DataObject, folder: Path) -> None:
    """Fields of a checkpoint that are lost, retyped and resized."""
    path = folder / "changed.ckpt"
    torch.save(data.draw(changed_tree(good("checkpoint"), plain | tensors | classes)), path)
    guarded(lambda: played(path), path.stat().st_size)


def checkpoint_bytes(data: st.DataObject, folder: Path) -> None:
    """Bytes of a checkpoint's file."""
    path = folder / "changed.ckpt"
    written = io.BytesIO()
    torch.save(good("checkpoint"), written)
    path.write_bytes(data.draw(changed_bytes(written.getvalue())))
    guarded(lambda: played(path), path.stat().st_size)


def played(path: Path) -> None:
    """One action of a checkpoint."""
    reverie.load(path).predict(np.zeros(3, np.float32))


# ------------------------------------------------------------------------------------------------------------- datasets
def converted(path: Path, folder: Path) -> None:
    """A dataset, all of whose rows are read, and its card."""
    describe(convert([path], cache_dir=folder / "cache"))


def _metadata(data: st.DataObject) -> str:
    """JSON of a dataset: of other values, or damaged."""
    text = json.dumps(data.draw(changed_tree(META, plain)))
    return data.draw(st.just(text) | changed_bytes(text.encode()).map(_text))


def _text(content: bytes) -> str:
    return content.decode("utf-8", "replace").replace("\0", "0")  # HDF5 holds no text with a zero in it


def npz_fields(data: st.DataObject, folder: Path) -> None:
    """Fields of a file of arrays."""
    path = folder / "x.npz"
    fields = data.draw(changed_tree(dict(make_arrays()), arrays))
    np.savez(path, **{str(name).replace("\0", "") or "x": v for name, v in fields.items()}, meta=_metadata(data))
    guarded(lambda: converted(path, folder), path.stat().st_size)


def npz_bytes(data: st.DataObject, folder: Path) -> None:
    """Bytes of a file of arrays."""
    path, written = folder / "x.npz", io.BytesIO()
    np.savez(written, **make_arrays(), meta=json.dumps(META))
    path.write_bytes(data.draw(changed_bytes(written.getvalue())))
    guarded(lambda: converted(path, folder), path.stat().st_size)


def hdf5_bytes(data: st.DataObject, folder: Path) -> None:
    """Bytes of an HDF5 file."""
    path, written = folder / "x.h5", io.BytesIO()
    with h5py.File(written, "w") as file:
        for name, values in make_arrays().items():
            file[name] = values
        file.attrs["meta"] = _metadata(data)
    path.write_bytes(data.draw(changed_bytes(written.getvalue())))
    guarded(lambda: converted(path, folder), path.stat().st_size)


def minari_metadata(data: st.DataObject, folder: Path) -> None:
    """Metadata of a Minari dataset: its values, or its bytes."""
    files = dict(good(data.draw(st.sampled_from(("hdf5", "arrow")))))
    name = data.draw(st.sampled_from(sorted(n for n in files if n.endswith(".json"))))
    tree = json.loads(files[name])
    text = json.dumps(data.draw(changed_tree(tree, plain))).encode()
    files[name] = data.draw(st.just(text) | changed_bytes(files[name]))
    guarded(lambda: converted(_written(files, folder), folder), sum(map(len, files.values())))


def minari_bytes(data: st.DataObject, folder: Path) -> None:
    """Bytes of any file of a Minari dataset."""
    files = dict(good(data.draw(st.sampled_from(("hdf5", "arrow")))))
    name = data.draw(st.sampled_from(sorted(files)))
    files[name] = data.draw(changed_bytes(files[name]))
    guarded(lambda: converted(_written(files, folder), folder), sum(map(len, files.values())))


def _written(files: dict[str, bytes], folder: Path) -> Path:
    shutil.rmtree(folder / "minari", ignore_errors=True)
    for name, content in files.items():
        path = folder / "minari" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder / "minari"


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (config_text, config_tree, checkpoint_tree, checkpoint_bytes, npz_fields, npz_bytes, hdf5_bytes,
                  minari_metadata, minari_bytes)
}  # fmt: skip
