"""The last checkpoints that a run keeps, and the one that takes the place of a damaged one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from toy_run import SPACES, Toy, ToyData, make_trainer

from callbacks.checkpointing import Checkpoint, ExactResume, checkpoints_before, is_last
from commands.run_directory import newest_whole


def run(folder: Path, epochs: int = 2, keep: int = 3, **arguments: Any) -> Toy:
    torch.manual_seed(0)
    agent = Toy(SPACES)
    checkpoint = Checkpoint(monitor="none", every_n_updates=4, keep_last=keep)
    make_trainer(folder, epochs, [ExactResume(), checkpoint]).fit(agent, datamodule=ToyData(), **arguments)
    return agent


def updates(folder: Path) -> dict[str, int]:
    """Update of each checkpoint in a run's folder by its name."""
    places = sorted((folder / "checkpoints").iterdir())
    return {path.name: torch.load(path, weights_only=True)["agent"]["updates"] for path in places}


def test_the_last_ones_are_kept_by_the_updates_that_they_are_of(tmp_path: Path) -> None:
    run(tmp_path)
    assert updates(tmp_path) == {"last-12.ckpt": 12, "last-16.ckpt": 16, "last.ckpt": 20}


def test_by_default_there_is_one(tmp_path: Path) -> None:
    run(tmp_path, keep=1)
    assert updates(tmp_path) == {"last.ckpt": 20}


def test_a_run_that_goes_on_keeps_what_one_without_a_break_does(tmp_path: Path) -> None:
    run(tmp_path / "whole", 4)
    run(tmp_path / "parts", 2)
    run(tmp_path / "parts", 4, ckpt_path=tmp_path / "parts/checkpoints/last.ckpt")
    assert updates(tmp_path / "parts") == updates(tmp_path / "whole")


class Seen(Callback):
    """The path of the last checkpoint as it stands in one that is written at the first update."""

    path = ""

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.path = self.path or trainer.checkpoint_callback.state_dict()["last_model_path"]  # type: ignore[union-attr]
        trainer.should_stop = True


@pytest.mark.parametrize("name", ["last.ckpt", "last-16.ckpt"])
def test_a_run_that_goes_on_knows_its_last_one_before_it_writes_another(name: str, tmp_path: Path) -> None:
    """Such as a cloned policy, that is kept soon after."""
    run(tmp_path)
    folder, seen = tmp_path / "checkpoints", Seen()
    checkpoint = Checkpoint(monitor="none", every_n_updates=0)
    trainer = make_trainer(tmp_path, 4, [seen, ExactResume(), checkpoint])
    trainer.fit(Toy(SPACES), datamodule=ToyData(), ckpt_path=folder / name)
    assert seen.path == str(folder / "last.ckpt")


@pytest.mark.parametrize("call", ["link", "replace", "unlink"])
def test_there_is_always_a_last_one_and_never_too_many(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever call a run is killed at."""
    real, seen = getattr(os, call), []

    def watched(*arguments: Any, **options: Any) -> Any:
        names = {path.name for path in (tmp_path / "checkpoints").glob("*.ckpt")}
        seen.append(names)
        assert "last.ckpt" in names or len(seen) <= 3
        assert len(names) <= 4
        return real(*arguments, **options)

    monkeypatch.setattr(os, call, watched)
    run(tmp_path)
    assert len(seen) >= 3


def test_a_run_that_went_back_gives_up_what_came_after(tmp_path: Path) -> None:
    run(tmp_path)
    folder = tmp_path / "checkpoints"
    (folder / "last.ckpt").write_bytes(b"damaged")
    agent = run(tmp_path, 2, ckpt_path=folder / "last-12.ckpt")
    assert agent.updates == 20
    assert updates(tmp_path) == {"last-12.ckpt": 12, "last-16.ckpt": 16, "last.ckpt": 20}


def test_the_newest_whole_one_takes_the_place_of_a_damaged_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path)
    last = tmp_path / "checkpoints/last.ckpt"
    assert newest_whole(last) == last
    assert capsys.readouterr().err == ""
    for place, next_one in ((last, "last-16.ckpt"), (last.with_name("last-16.ckpt"), "last-12.ckpt")):
        content = bytearray(place.read_bytes())
        content[len(content) // 2] ^= 1
        place.write_bytes(content)
        assert newest_whole(last) == last.with_name(next_one)
        said = capsys.readouterr().err
        assert said.startswith(f"reverie: warning: checkpoint {last} is damaged (")
        assert said.endswith(f"): the run goes on from {last.with_name(next_one)}\n")
    last.with_name("last-12.ckpt").write_bytes(b"")
    assert newest_whole(last) == last  # whose damage is an error, then


def test_names_are_told_from_others(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in ("last-10.ckpt", "last-9.ckpt", "last-x.ckpt", "last-.ckpt", "last--1.ckpt", "last.ckpt", "best.ckpt"):
        (folder / name).touch()
    assert [path.name for path in checkpoints_before(folder / "last.ckpt")] == ["last-9.ckpt", "last-10.ckpt"]
    assert is_last(folder / "last-10.ckpt")
    assert not is_last(folder / "best.ckpt")
    assert not is_last(tmp_path / "last.ckpt")


def test_less_than_one_is_refused() -> None:
    with pytest.raises(ValueError, match="keep_last must be at least 1, got 0"):
        Checkpoint(keep_last=0)
