"""A checkpoint keeps rows of another storage as numbers alone, whole, and with the name of a file that is damaged."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torchrl.data import LazyTensorStorage, RandomSampler

from datamodules.replay.kept_rows import ASIDE, KEPT
from datamodules.replay.memory_mapped_rows import COUNT, file_name
from tests.helpers.small_replays import assert_same, drawn, fill, sequences, windows


class Call:
    """Pickled code: whoever unpickles it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("make", [windows, sequences])
def test_no_code_of_a_folder_that_a_checkpoint_names_is_run(tmp_path: Path, make: Any) -> None:
    theirs = fill(make(tmp_path / "theirs", storage=LazyTensorStorage))
    state, expected = theirs.state_dict(), drawn(theirs)
    marker = tmp_path / "executed"
    theirs.buffer.dumps(tmp_path / "theirs" / "dumped")
    for folder in (path for path in (tmp_path / "theirs").rglob("*") if path.is_dir()):
        for name in ("prefetch.pkl", "transform.t", "sampler_metadata.pkl", "collate_fn.t"):
            (folder / name).write_bytes(pickle.dumps(Call(marker)))
    mine = make(tmp_path / "mine", storage=LazyTensorStorage)
    assert mine.load_state_dict(state)
    assert not marker.exists()
    assert_same(drawn(mine), expected)


@pytest.mark.parametrize("make", [windows, sequences])
def test_damage_to_any_file_is_an_error_that_names_it(tmp_path: Path, make: Any) -> None:
    replay = fill(make(tmp_path, storage=LazyTensorStorage))
    state = replay.state_dict()
    for name in replay.fields:
        file = tmp_path / KEPT / file_name(name)
        content = bytearray(file.read_bytes())
        content[40] ^= 1
        file.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{file_name(name)} is damaged: .* remove the folder {file.parent}"):
            make(tmp_path, storage=LazyTensorStorage).load_state_dict(state)
        file.write_bytes(content[:40])
        with pytest.raises(ValueError, match=rf"{file_name(name)} is missing, or has lost its end"):
            make(tmp_path, storage=LazyTensorStorage).load_state_dict(state)
        file.unlink()
        with pytest.raises(ValueError, match=rf"{file_name(name)} is missing, or has lost its end"):
            make(tmp_path, storage=LazyTensorStorage).load_state_dict(state)
        content[40] ^= 1
        file.write_bytes(content)
    (tmp_path / KEPT / COUNT).write_bytes(b"\x7f" * 8)  # the checkpoint knows it
    assert make(tmp_path, storage=LazyTensorStorage).load_state_dict(state)
    shutil.rmtree(tmp_path / KEPT)  # as the messages advise
    empty = make(tmp_path, storage=LazyTensorStorage)
    assert not empty.load_state_dict(state)
    assert len(empty) == 0


@pytest.mark.parametrize("make", [windows, sequences])
def test_rows_that_were_not_written_to_the_end_do_not_count(tmp_path: Path, make: Any) -> None:
    replay = fill(make(tmp_path, storage=LazyTensorStorage))
    state, expected = replay.state_dict(), drawn(replay)
    shutil.copytree(tmp_path / KEPT, tmp_path / ASIDE)
    next((tmp_path / ASIDE).glob("field-*")).write_bytes(b"half")
    fresh = make(tmp_path, storage=LazyTensorStorage)
    assert fresh.load_state_dict(state)
    assert_same(drawn(fresh), expected)
    assert fill(fresh, 9).state_dict()["count"] > state["count"]
    assert not (tmp_path / ASIDE).exists()


def test_a_changed_exponent_of_the_weights_takes_effect(tmp_path: Path) -> None:
    weights = []
    for parts in ({}, {"storage": LazyTensorStorage}):
        folder = tmp_path / str(len(parts))
        replay = fill(sequences(folder, **parts))
        drawn(replay)
        state = replay.state_dict()
        fresh = sequences(folder, beta=0.1, **parts)
        assert fresh.load_state_dict(state)
        one, other = replay.sample(), fresh.sample()
        torch.testing.assert_close(one["weight"] ** (0.1 / 0.6), other["weight"])
        assert not torch.equal(one["weight"], other["weight"])
        weights.append(other["weight"])
    assert torch.equal(*weights)


class Remembering(RandomSampler):
    """Sampler whose state is no number."""

    def state_dict(self) -> dict[str, Any]:
        return {"remembered": object()}


@pytest.mark.parametrize("parts", [{}, {"storage": LazyTensorStorage}])
def test_a_sampler_without_a_plain_state_starts_anew(tmp_path: Path, parts: dict[str, Any]) -> None:
    replay = fill(sequences(tmp_path, sampler=Remembering, **parts))
    torch.save(replay.state_dict(), tmp_path / "state.pt")
    expected = drawn(replay)
    fresh = sequences(tmp_path, sampler=Remembering, **parts)
    with pytest.warns(UserWarning, match="the checkpoint holds no state of Remembering, which starts anew"):
        assert fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert_same(drawn(fresh), expected)
