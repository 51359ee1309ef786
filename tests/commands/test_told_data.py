"""The data that a checkpoint names are looked at before anything is opened, imported or written."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from offline_runs import add_run, three_policies, write_data

from commands.candidate_files import open_data, read_candidates
from commands.told_data import told_arguments
from datamodules.offline import OfflineDataModule
from modules.trust.names import trusting

STRANGER = "strange_rooms"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("source", 5), ("source", [5]), ("source", {"class_path": "os.system"}), ("format", 5), ("seed", -1),
        ("seed", "0"), ("truncation", "never"), ("observation_keys", "x"), ("resize", 0.5), ("environment", 5),
        ("reward_scale", "much"), ("reward_shift", float("nan")),
    ],
)  # fmt: skip
def test_what_data_cannot_be_is_told_with_the_file(name: str, value: Any) -> None:
    content = {"datamodule_hyper_parameters": {name: value}}
    with pytest.raises(ValueError, match=f"checkpoint a.ckpt is damaged: {name} of its data is .*; use another one"):
        told_arguments(content, "a.ckpt", [name])


def test_other_arguments_are_not_looked_at() -> None:
    content = {"datamodule_hyper_parameters": {"source": ["a", "b"], "batch_size": "many", "resize": None}}
    assert told_arguments(content, "a.ckpt", ["source", "resize", "seed"]) == {"source": ["a", "b"], "resize": None}
    assert told_arguments({}, "a.ckpt", ["source"]) == {}


@pytest.mark.parametrize("place", ["datamodule_hyper_parameters", "dataset"])
def test_the_package_of_an_environment_is_not_imported(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{STRANGER}.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    data = write_data(tmp_path / "d.npz")
    facts = {"source": str(data)} if place == "datamodule_hyper_parameters" else {"content_hash": "0"}
    named = facts | {"environment": f"{STRANGER}:Room-v0"}
    path = add_run(tmp_path / "run", three_policies(), data, **{place: named})
    with pytest.raises(ValueError, match=rf"names the environment {STRANGER}:Room-v0; nothing was imported.*--trust"):
        read_candidates([path])
    assert STRANGER not in sys.modules
    with trusting([STRANGER]):
        assert len(read_candidates([path])) == 1


def test_a_file_does_not_say_where_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path / "mine"))
    data = write_data(tmp_path / "d.npz")
    told = {"source": str(data), "environment": "Pendulum-v1", "cache_dir": str(tmp_path / "theirs"), "download": True}
    path = add_run(tmp_path / "run", three_policies(), data, datamodule_hyper_parameters=told)
    opened = open_data(read_candidates([path]), None)
    assert isinstance(opened, OfflineDataModule)
    assert not opened.download
    assert (tmp_path / "mine").is_dir()
    assert not (tmp_path / "theirs").exists()
