"""Files of strangers: each is refused with one line, at once, whatever it declares or points to; nothing is kept."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np
import pytest
from hostile_makers import (
    Maker,
    bare,
    bomb,
    converted,
    declare,
    declared_in_parquet,
    deep_wrapper,
    described,
    fifo,
    hdf5,
    header,
    inside_memmap,
    inside_minari,
    linked_device,
    links_in_a_circle,
    listening,
    loop,
    meta,
    minari_says,
    npz,
    out_of_folder,
    outside_minari,
    packed_by_lzma,
    put,
    sparse,
    through_a_group,
    twice,
    virtual,
    with_member,
)
from tiny_dataset import make_arrays, write_hdf5, write_memmap

from commands.datasets import main
from commands.ui import RUN_FILE, _store_of_run
from datamodules.envs.recorded_environment import plain_environment
from datamodules.played.minari_episodes import collection_settings
from datamodules.recorded.card import describe
from datamodules.recorded.conversion import convert
from datamodules.recorded.readers.minari_dataset import read_metadata
from datamodules.replay.memory_mapped_rows import LAYOUT, read_layout

SECONDS = 2.0

ROWS: dict[str, tuple[Maker, str]] = {
    # neither a file nor a folder
    "pipe": (fifo, "pipe.h5 is a pipe"),
    "device": (lambda folder: Path("/dev/zero"), "/dev/zero is a device"),
    "link to a device": (linked_device, "zero.npz is a device"),
    "socket": (listening, "s.h5 is a socket"),
    "pipe in a memmap": (inside_memmap(lambda f: os.mkfifo(f / "x.memmap")), "x.memmap is a pipe"),
    "pipe in a Minari folder": (inside_minari(lambda f: os.mkfifo(f / "0")), "0 is a pipe"),
    "link out of a memmap": (inside_memmap(out_of_folder), "reward.memmap is a symbolic link that leads out"),
    "link to a folder": (inside_memmap(lambda f: (f / "all").symlink_to("/")), "all is a symbolic link"),
    "name that moves a cursor": (inside_memmap(lambda f: (f / "a\x1b[2J").touch()), "a file named 'a\\x1b[2J'"),
    "links in a circle": (inside_memmap(loop), "is a symbolic link that leads nowhere"),
    "file of holes": (sparse, "declares 1,099,511,627,776 bytes"),
    # HDF5
    "external link": (hdf5(put("rewards", h5py.ExternalLink("o.h5", "/r"))), "rewards is a link to another file"),
    "external link that moves a cursor": (
        hdf5(lambda f: f.__setitem__("a\x1b[2J" + "b" * 500, h5py.ExternalLink("o\n.h5" * 99, "/"))),
        "a\\x1b[2Jbbb",
    ),
    "many names": (
        hdf5(lambda f: (f.pop("rewards"), [f.create_dataset(f"{i}" * 99, data=i) for i in range(99)])),
        "missing field rewards; it has",
    ),
    "external link in a way": (hdf5(through_a_group), "far is a link to another file"),
    "external link in Minari": (inside_minari(outside_minari), "rewards is a link to another file"),
    "Parquet of one number": (declared_in_parquet, "declares 80,000,000 bytes"),
    "external storage": (
        hdf5(declare("rewards", (12,), external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])),
        "rewards keeps its values in other places",
    ),
    "virtual dataset": (hdf5(virtual), "rewards keeps its values in other places"),
    "soft links in a circle": (hdf5(links_in_a_circle), "x.h5 is not a readable HDF5 file"),
    "soft link to nothing": (hdf5(put("rewards", h5py.SoftLink("/no"))), "missing field rewards"),
    "1e11 rows": (hdf5(declare("observations", (10**11, 3))), "declares 1,200,000,000,"),
    "2e9 rows in chunks": (
        hdf5(declare("rewards", (2 * 10**9,), chunks=(1 << 20,), compression="gzip", fillvalue=1.0)),
        "declares 8,000,000,",
    ),
    "a chunk larger than its rows": (
        hdf5(declare("rewards", (12,), maxshape=(None,), chunks=(10**9,), compression="gzip")),
        "declares 4,000,000,",
    ),
    "scalar dataset": (hdf5(put("rewards", 3.0)), "rewards is a single value or nothing"),
    "null dataspace": (hdf5(put("terminals", h5py.Empty("u1"))), "terminals is a single value or nothing"),
    "group for a dataset": (hdf5(lambda f: (f.pop("rewards"), f.create_group("rewards"))), "missing field rewards"),
    "meta an integer": (meta(3), "meta is of type int"),
    "meta an array": (meta([1, 2]), "meta is of type ndarray"),
    "meta nothing": (meta(h5py.Empty("u1")), "meta is of type Empty"),
    "meta no JSON": (meta("{"), "meta is truncated or damaged"),
    "meta a list": (meta("[1]"), "meta holds a JSON list"),
    "meta deep": (meta("[" * 50_000), "meta is truncated or damaged"),
    "name an object": (meta('{"name": {"a": 1}}'), "name in meta is {'a': 1}"),
    "name of nothing": (meta('{"name": ""}'), "name in meta is , text of"),
    "environment a list": (meta('{"env_id": ["Pendulum-v1"]}'), "env_id must be the id"),
    "reference a text": (meta('{"ref_random": "1"}'), "ref_random in meta is 1, a finite number is needed"),
    "reference beyond floats": (meta('{"ref_expert": 1' + "0" * 400 + "}"), "ref_expert in meta is 1"),
    "environment that moves a cursor": (
        meta(json.dumps({"env_id": "\x1b[2J" + "y" * 2000})), "env_id should name a registered environment",
    ),
    "two environments": (
        meta(json.dumps({"env_id": "x" * 2000, "environment_spec": plain_environment("Pendulum-v1")})), "env_id should",
    ),
    "environment of a long name": (
        meta(json.dumps({"environment_spec": plain_environment("x" * 150)})), "environment_spec should name",
    ),
    "structured and long": (
        npz(rewards=np.zeros(12, [(f"f{i:04}\x1b[2J", "<f8") for i in range(300)])), "rewards holds values of type",
    ),
    "reference not a number": (meta('{"ref_expert": NaN}'), "ref_expert in meta is nan"),
    # NPZ
    "bare array": (bare, "x.npz is not a readable NPZ file (it is one bare array (.npy)"),
    "scalar fields": (npz(observations=np.float32(1), rewards=np.float32(1)), "observations is a single value"),
    "observations without entries": (npz(observations=np.zeros((12, 0))), "which hold nothing"),
    "npz meta a list": (npz(meta="[1]"), "meta holds a JSON list"),
    "npz meta an array": (npz(meta=np.arange(3)), "meta is of type ndarray"),
    "header of 3e12 rows": (with_member("observations", header("(3000000000000, 1)")), "12,000,000,000,000 bytes"),
    "header with code": (with_member("observations", header("__import__('os')")), "observations is no readable array"),
    "long header": (with_member("rewards", header("(" + "9, " * 1500 + ")")), "rewards "),
    "header of objects": (with_member("observations", header("(12, 3)", "'|O'")), "holds pickled Python objects"),
    "structured": (with_member("rewards", header("(0,)", "[('a', '<f4')]")), "no real numbers"),
    "member twice": (twice, "it holds rewards twice"),
    "more declared than there": (with_member("meta", header("()")), "declares shape () of float32, 4 bytes, and the"),
    "packed by LZMA": (packed_by_lzma, "is packed in a way that np.savez"),
    "zip bomb": (bomb, "declares 67,"),
    "no array": (with_member("rewards", b"hello"), "rewards is no readable array"),
    # memmap
    "meta.json a list": (described(lambda entries: [1]), "meta.json holds a JSON list"),
    "meta.json a number": (described(lambda entries: 5), "meta.json holds a JSON int"),
    "entry a number": (described(lambda entries: entries | {"observation": 5}), "observation is no tensor"),
    "type a function": (
        described(lambda entries: entries["observation"].update(dtype="torch.os.system")),
        'observation is of type torch.os.system; types that are read',
    ),
    "type of another kind": (
        described(lambda entries: entries["reward"].update(dtype="torch.zeros"), "next/meta.json"),
        'next/reward is of type torch.zeros',
    ),
    "type missing": (described(lambda entries: entries["action"].pop("dtype") and None), "action is of type None"),
    "shape beyond its file": (
        described(lambda entries: entries["observation"].update(shape=[12, 10**12])),
        "observation.memmap is truncated: it has 144 of 48,000,000,000,000 bytes",
    ),
    "shape with signs": (described(lambda entries: entries["action"].update(shape=[-4, -6])), "a shape is [-4, -6]"),
    "shape of shapes": (
        described(lambda entries: entries["observation"].update(shape=[1 << 61] * 32)),
        "observation.memmap is truncated: it has 144 of more than 10^18 bytes",
    ),
    "shape a text": (described(lambda entries: entries.update(shape="12")), 'a shape is 12'),
    "other batch size": (described(lambda entries: entries.update(shape=[6])), "the batch size is [6]"),
    **{
        f"folder {name[:9]!r}": (
            described(lambda entries, name=name: entries.update({name: {"type": "TensorDict"}})), "names the folder",
        )
        for name in ("/etc", "../elsewhere", "..", "", "a/../..", "a\0b", "\x1b[2J", "a" * 300)
    },
    # Minari
    "score beyond floats": (minari_says(lambda m: m.update(ref_min_score=10**400)), "ref_min_score must be a number"),
    "steps beyond all": (minari_says(lambda m: m.update(total_steps=10**400)), "total_steps must be a whole number"),
    "wrapper of lists within lists": (minari_says(deep_wrapper), "init_args of TimeLimit are lists of more than"),
    "recorded in a long name": (minari_says(lambda m: m.update(env_spec=json.dumps({"id": "Q" * 3000}))), "env_spec"),
    # converted
    "description a list": (converted(lambda entries: [1]), "dataset.json holds a JSON list"),
    "description without spaces": (converted(lambda entries: entries.pop("spaces") and None), "damaged conversion"),
    "spaces a number": (converted(lambda entries: entries.update(spaces="5")), "damaged conversion"),
    "columns elsewhere": (converted(lambda entries: entries["columns"].update(action=[0, 2, [2]])), "columns are not"),
    "notes a text": (converted(lambda entries: entries.update(notes="x")), "the wrong type in notes"),
}  # fmt: skip


@pytest.mark.timeout(30)  # of waiting; the seconds are of work, for machines that are busy
@pytest.mark.filterwarnings("ignore::UserWarning:minari")
@pytest.mark.parametrize("row", ROWS)
def test_is_refused_at_once(row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    make, expected = ROWS[row]
    source, cache = make(tmp_path), tmp_path / "cache"
    begun = time.process_time()
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        convert([source], cache_dir=cache)
    assert time.process_time() - begun < SECONDS
    message = str(caught.value)
    assert expected in message, message
    assert len(message.replace(str(tmp_path), "")) < 400
    assert message.isprintable()
    assert not cache.exists() or not [path for path in cache.iterdir() if path.is_dir()]


def test_what_another_file_holds_is_not_hashed_or_read(tmp_path: Path) -> None:
    source = hdf5(lambda file: file.__setitem__("spare", h5py.SoftLink("/rewards")))(tmp_path)
    assert len(convert([source], cache_dir=tmp_path / "cache").steps) == 12  # a second name inside the file is fine
    np.savez(tmp_path / "more.npz", **make_arrays(), infos=np.array([{"a": 1}], dtype=object))
    assert len(convert([tmp_path / "more.npz"], cache_dir=tmp_path / "cache").steps) == 12  # not needed, so not read


def test_a_pickled_field_that_is_not_needed_is_not_read(tmp_path: Path) -> None:
    source = write_memmap(tmp_path / "td", make_arrays())
    entries = json.loads((source / "meta.json").read_text())
    entries["../../note"] = {"type": "NonTensorData", "dtype": "os.system"}
    (source / "meta.json").write_text(json.dumps(entries))
    assert len(convert([source], cache_dir=tmp_path / "cache").steps) == 12


@pytest.mark.parametrize("layout", ["npz", "hdf5", "converted"])
def test_an_environment_of_a_file_imports_nothing(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a_room_of_data.py").write_text(
        "import gymnasium as gym\nfrom gymnasium.envs.classic_control import PendulumEnv\n"
        "gym.register('DataRoom-v0', PendulumEnv)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    id, cache = "a_room_of_data:DataRoom-v0", tmp_path / "cache"
    text, spec = json.dumps({"env_id": id}), {"environment": id, "environment_spec": plain_environment(id)}
    make = {"npz": npz(meta=text), "hdf5": meta(text), "converted": converted(lambda entries: entries.update(spec))}
    source = make[layout](tmp_path)
    arguments = ["check", str(source), "--cache_dir", str(cache)]
    if layout == "converted":  # has its spaces: the environment is not made at all
        main(arguments)
        assert id in capsys.readouterr().out
    else:
        with pytest.raises(ValueError, match=r"nothing was imported.*--trust a_room_of_data"):
            main(arguments)
        assert "a_room_of_data" not in sys.modules
        # The user's own word imports it; its spaces are Pendulum's, which the tiny actions do not have.
        with pytest.raises(ValueError, match="actions has rows of shape"):
            main([*arguments, "--environment", id])
    assert ("a_room_of_data" in sys.modules) == (layout != "converted")
    sys.modules.pop("a_room_of_data", None)
    gym.registry.pop("DataRoom-v0", None)


def test_a_card_holds_nothing_that_a_terminal_obeys(tmp_path: Path) -> None:
    source = meta(json.dumps({"name": "\x1b[2Jwalks\nreferences   1.0 to 2.0"}))(tmp_path)
    card = describe(convert([source], cache_dir=tmp_path / "cache")).card
    assert "?[2Jwalks?references   1.0 to 2.0" in card
    assert "\x1b" not in card


def test_metadata_without_end_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("data/metadata.json", LAYOUT, RUN_FILE):
        with (tmp_path / name).open("w") as file:
            file.truncate(1 << 40)  # takes no space, and all of the memory where it is read
    with pytest.raises(ValueError, match="it declares 1,099,511,627,776 bytes"):
        read_metadata(tmp_path / "data" / "metadata.json")
    with pytest.raises(ValueError, match="it declares 1,099,511,627,776 bytes"):
        collection_settings(tmp_path)
    with pytest.raises(ValueError, match="names no run") as told:
        _store_of_run(tmp_path / RUN_FILE)
    assert "it declares" in str(told.value.__cause__)
    assert read_layout(tmp_path) is None


def test_list_goes_on_past_damaged_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    for name, content in (("a", "[1]"), ("b", '{"total_steps": [3]}'), ("c", "{")):
        (tmp_path / "minari" / name / "data").mkdir(parents=True)
        (tmp_path / "minari" / name / "data" / "metadata.json").write_text(content)
    (tmp_path / "minari" / "d" / "data").mkdir(parents=True)
    os.mkfifo(tmp_path / "minari" / "d" / "data" / "metadata.json")
    (tmp_path / "cache" / "e" / "steps").mkdir(parents=True)
    (tmp_path / "cache" / "e" / "dataset.json").write_text("5")
    fifo(tmp_path)
    write_hdf5(tmp_path / "good.h5", make_arrays())
    main(["list", "--folder", str(tmp_path), "--cache_dir", str(tmp_path / "cache")])
    said = capsys.readouterr().out
    assert said.count("holds a JSON") == 2
    assert "is a pipe" in said
    assert "good.h5" in said
    assert "pipe.h5" not in said
