"""Where episodes end though no flag says so, and rows that only pad a trajectory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from reading import column, notes, read, with_next
from tensordict import TensorDict
from tiny_dataset import Arrays, make_arrays, write_hdf5, write_memmap
from torchrl.collectors.utils import split_trajectories

from datamodules.recorded import description
from datamodules.recorded.conversion import convert


# ---------------------------------------------------------------------------------------------- ends that nobody marked
@pytest.mark.parametrize("rows", [2, 3, 65_536])
@pytest.mark.parametrize("layout", ["npz", "hdf5", "memmap"])
def test_an_end_that_no_flag_marks_is_a_time_out(
    tmp_path: Path, arrays: Arrays, layout: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(description, "CHUNK_STEPS", rows)
    arrays["timeouts"][3] = 0
    if layout == "memmap":
        dataset = convert([write_memmap(tmp_path / "td", arrays)], cache_dir=tmp_path / "cache")
    elif layout == "hdf5":
        dataset = convert([write_hdf5(tmp_path / "a.h5", with_next(arrays))], cache_dir=tmp_path / "cache")
    else:
        dataset = read(tmp_path, with_next(arrays))
    assert dataset.episodes["steps"].tolist() == [4, 3, 5]
    assert np.flatnonzero(column(dataset, "next/truncated")).tolist() == [3, 11]
    assert column(dataset, "next/observation")[3, 0] == 4
    assert "no flag is set at row 3, but its next observation is not the observation of row 4: 1 such" in notes(dataset)


def test_marked_ends_and_rounding_are_no_unmarked_ends(tmp_path: Path, arrays: Arrays) -> None:
    marked = with_next(arrays)
    assert "such ends" not in notes(read(tmp_path, marked))
    rounded = marked | {"next_observations": marked["next_observations"] * (1 + 3e-7), "rewards": marked["rewards"] + 1}
    assert "such ends" not in notes(read(tmp_path, rounded))
    exact = marked | {"observations": marked["observations"].astype(np.float64) / 3}
    exact["next_observations"] = (marked["next_observations"].astype(np.float64) / 3).astype(np.float32)
    assert "such ends" not in notes(read(tmp_path, exact))


def test_rows_in_no_order_are_said_to_be(tmp_path: Path, arrays: Arrays) -> None:
    order = np.random.default_rng(0).permutation(12)
    dataset = read(tmp_path, {name: values[order] for name, values in with_next(arrays).items()})
    assert "are not followed by their own next observation" in notes(dataset)
    np.testing.assert_array_equal(column(dataset, "next/observation")[:, 0] - column(dataset, "observation")[:, 0], 1)


def test_terminals_at_the_wrong_rows_are_noticed(tmp_path: Path, arrays: Arrays) -> None:
    arrays = with_next(arrays)
    arrays["terminals"] = np.roll(arrays["terminals"], 1)
    said = notes(read(tmp_path, arrays))
    assert "no flag is set at row 6" in said
    assert "terminals is set at row 7, but the next row goes on from there" in said


def test_a_row_with_both_flags_is_terminal(tmp_path: Path, arrays: Arrays) -> None:
    arrays["timeouts"][6] = 1
    dataset = read(tmp_path, arrays, truncation="drop")
    assert column(dataset, "next/terminated").sum() == 1
    assert dataset.metadata["terminals"] == 1
    assert dataset.metadata["timeouts"] == 2


# -------------------------------------------------------------------------------------------------------------- padding
def trajectories() -> TensorDict:
    """The tiny dataset as TorchRL's collectors give it: flat, with the number of the trajectory and `done`."""
    arrays = make_arrays()
    ends = np.cumsum(arrays["episode_lengths"]) - 1
    following = with_next(dict(arrays))["next_observations"]
    flags = {name: torch.from_numpy(arrays[name].astype(bool))[:, None] for name in ("terminals", "timeouts")}
    data = {
        "observation": torch.from_numpy(arrays["observations"]),
        "action": torch.from_numpy(arrays["actions"]),
        ("next", "observation"): torch.from_numpy(following),
        ("next", "reward"): torch.from_numpy(arrays["rewards"])[:, None],
        ("next", "terminated"): flags["terminals"],
        ("next", "truncated"): flags["timeouts"],
        ("collector", "traj_ids"): torch.from_numpy(np.searchsorted(ends, np.arange(12))),
    }
    return TensorDict(data, [12])


@pytest.mark.parametrize("rows", [3, 65_536])
@pytest.mark.parametrize("kind", ["collector", "root", "column", "dirty"])
def test_padding_is_no_data(tmp_path: Path, kind: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(description, "CHUNK_STEPS", rows)
    data = split_trajectories(trajectories())
    assert data.batch_size == (3, 5)
    if kind != "collector":
        mask = data.pop("collector")["mask"]
        data["mask"] = mask.unsqueeze(-1) if kind == "column" else mask
    if kind == "dirty":
        data["observation"][~data["mask"]] = torch.nan
        data["next", "truncated"][~data["mask"]] = True
    data.memmap_(tmp_path / "td")
    dataset = convert([tmp_path / "td"], cache_dir=tmp_path / "cache")
    arrays = make_arrays()
    np.testing.assert_array_equal(column(dataset, "observation"), arrays["observations"])
    np.testing.assert_array_equal(column(dataset, "next/reward")[:, 0], arrays["rewards"])
    assert dataset.episodes["return"].tolist() == [6.0, 15.0, 45.0]
    assert np.flatnonzero(column(dataset, "next/truncated")).tolist() == [3, 11]
    assert "3 rows are padding by the mask" in notes(dataset)


def test_padding_without_a_mask_is_refused_and_the_advice_works(tmp_path: Path) -> None:
    data = split_trajectories(trajectories())
    mask = data.pop("collector")["mask"]
    data.clone().memmap_(tmp_path / "bare")
    with pytest.raises(ValueError, match=r"bare: row 4, the last of its trajectory, is zero in every field.*mask"):
        convert([tmp_path / "bare"], cache_dir=tmp_path / "cache")
    data["mask"] = mask
    data.memmap_(tmp_path / "masked")
    assert len(convert([tmp_path / "masked"], cache_dir=tmp_path / "cache").steps) == 12


def test_ends_that_only_a_trajectory_or_done_tells(tmp_path: Path) -> None:
    data = trajectories()
    data["next", "truncated"][:] = False
    data["observation"][:] = data["next", "observation"][:] = 1.0  # nothing to tell by
    data.clone().memmap_(tmp_path / "numbered")
    dataset = convert([tmp_path / "numbered"], cache_dir=tmp_path / "cache")
    assert dataset.episodes["steps"].tolist() == [4, 3, 5]
    data.pop("collector")
    data["next", "done"] = torch.zeros(12, 1, dtype=torch.bool)
    data["next", "done"][[3, 6]] = True
    data.memmap_(tmp_path / "done")
    dataset = convert([tmp_path / "done"], cache_dir=tmp_path / "cache")
    assert dataset.episodes["steps"].tolist() == [4, 3, 5]
    assert dataset.metadata["terminals"] == 1
