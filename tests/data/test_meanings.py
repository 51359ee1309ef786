"""Numbers that could be taken for others are read as what they are, or refused with file, field and row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pytest
import torch
from tensordict import TensorDict
from tiny_dataset import Arrays, make_arrays, write_hdf5, write_memmap, write_minari
from torchrl.collectors.utils import split_trajectories

from datamodules import record
from datamodules.conversion import convert
from datamodules.converted import Converted


def column(dataset: Converted, name: str) -> np.ndarray:
    place = dataset.columns[name]
    return dataset.steps["row"].numpy()[:, place.start : place.stop]


def with_next(arrays: Arrays) -> Arrays:
    """The tiny dataset with `next_observations` in place of the fields of episodes."""
    ends = np.cumsum(arrays.pop("episode_lengths")) - 1
    following = np.roll(arrays["observations"], -1, 0)
    following[ends] = arrays.pop("final_observations")
    return arrays | {"next_observations": following}


def read(tmp_path: Path, arrays: Arrays, **options: Any) -> Converted:
    np.savez(tmp_path / "a.npz", **arrays)
    return convert([tmp_path / "a.npz"], cache_dir=tmp_path / "cache", **options)


def notes(dataset: Converted) -> str:
    return "\n".join(dataset.metadata["notes"])


# ---------------------------------------------------------------------------------------------- ends that nobody marked
@pytest.mark.parametrize("rows", [2, 3, 65_536])
@pytest.mark.parametrize("layout", ["npz", "hdf5", "memmap"])
def test_an_end_that_no_flag_marks_is_a_time_out(
    tmp_path: Path, arrays: Arrays, layout: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "CHUNK_STEPS", rows)
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
    monkeypatch.setattr(record, "CHUNK_STEPS", rows)
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


# ---------------------------------------------------------------------------------------------------------------- flags
@pytest.mark.parametrize("value", [np.nan, 2.0, -1.0, 0.5])
@pytest.mark.parametrize("field", ["terminals", "timeouts"])
def test_flags_are_0_or_1(tmp_path: Path, arrays: Arrays, field: str, value: float) -> None:
    arrays[field] = arrays[field].astype(np.float32)
    arrays[field][5] = value
    with pytest.raises(ValueError, match=rf"a\.npz: {field} row 5 is {value}, a flag is 0 or 1; 1 such rows"):
        read(tmp_path, arrays)


def test_flags_of_other_types_and_shapes(tmp_path: Path, arrays: Arrays) -> None:
    expected = read(tmp_path, arrays).steps["row"].numpy()
    arrays["terminals"] = arrays["terminals"].astype(np.float64)[:, None]
    arrays["timeouts"] = -0.0 + arrays["timeouts"]
    arrays["rewards"] = arrays["rewards"][:, None]
    np.testing.assert_array_equal(read(tmp_path, arrays).steps["row"].numpy(), expected)
    arrays["terminals"] = np.full(12, 2, np.uint8).view(bool)
    with pytest.raises(ValueError, match="terminals row 0 is 2, a flag is 0 or 1"):
        read(tmp_path, arrays)


def test_flags_of_a_memmap(tmp_path: Path, arrays: Arrays) -> None:
    source = write_memmap(tmp_path / "td", arrays)
    file = source / "next" / "truncated.memmap"
    content = bytearray(file.read_bytes())
    content[7] = 3
    file.write_bytes(content)
    with pytest.raises(ValueError, match="td: next/truncated row 7 is 3, a flag is 0 or 1"):
        convert([source], cache_dir=tmp_path / "cache")


@pytest.mark.filterwarnings("ignore::UserWarning:minari")
def test_flags_of_minari(tmp_path: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    name = write_minari(arrays, "hdf5")
    with h5py.File(tmp_path / "minari" / name / "data" / "main_data.hdf5", "a") as file:
        del file["episode_1/terminations"]
        file["episode_1/terminations"] = [0.0, np.nan, 1.0]
    with pytest.raises(ValueError, match="episode 1: terminations row 1 is nan, a flag is 0 or 1"):
        convert([name], cache_dir=tmp_path / "cache")


def test_two_names_for_one_field(tmp_path: Path, arrays: Arrays) -> None:
    arrays["terminated"] = arrays["terminals"].copy()
    read(tmp_path, arrays)
    arrays["terminated"][2] = 1
    with pytest.raises(ValueError, match="terminals and terminated mean the same and differ"):
        read(tmp_path, arrays)


# -------------------------------------------------------------------------------------------------------------- actions
CHOICES = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("stored", [CHOICES, CHOICES[:, None], CHOICES.astype(np.uint8)[:, None]])
def test_a_column_of_integers_is_choices(tmp_path: Path, arrays: Arrays, stored: np.ndarray) -> None:
    dataset = read(tmp_path, arrays | {"actions": stored})
    assert dataset.spaces.action == gym.spaces.Discrete(3)
    assert dataset.steps["action"].tolist() == CHOICES.tolist()
    assert "action space guessed from the data: 3 choices" in notes(dataset)


@pytest.mark.parametrize("stored", [CHOICES > 0, (CHOICES > 0)[:, None]])
def test_bools_are_two_choices(tmp_path: Path, arrays: Arrays, stored: np.ndarray) -> None:
    dataset = read(tmp_path, arrays | {"actions": stored})
    assert dataset.spaces.action == gym.spaces.Discrete(2)
    assert dataset.steps["action"].tolist() == (CHOICES > 0).tolist()


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (np.stack([CHOICES, CHOICES], 1), "2 columns of integers, several choices at once"),
        (np.eye(3, dtype=np.float32)[CHOICES], "every row of actions is one-hot: store choices as integers"),
        (CHOICES - 1, "integers from -1 to 1; choices are numbered from 0"),
        (CHOICES * 10**9, "integers from 0 to 2000000000; choices are numbered from 0"),
        (CHOICES.astype(complex), "actions holds values of type complex128"),
    ],
)
def test_actions_that_are_refused(tmp_path: Path, arrays: Arrays, stored: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read(tmp_path, arrays | {"actions": stored})


@pytest.mark.parametrize("stored", [CHOICES[:, None], CHOICES.astype(np.float32), CHOICES.astype(np.float64)[:, None]])
def test_choices_of_a_known_space_in_any_form(tmp_path: Path, arrays: Arrays, stored: np.ndarray) -> None:
    space = gym.spaces.Discrete(3)
    assert read(tmp_path, arrays | {"actions": stored}, action_space=space).steps["action"].tolist() == CHOICES.tolist()
    half = stored.astype(np.float32)
    half[4] = 0.5
    with pytest.raises(ValueError, match=r"actions row 4 is 0\.5, outside the action space of whole numbers \[0, 2\]"):
        read(tmp_path, arrays | {"actions": half}, action_space=space)


@pytest.mark.parametrize("declared", [True, False])
def test_rounding_widens_no_bounds(tmp_path: Path, arrays: Arrays, declared: bool) -> None:
    arrays["actions"][7, 1] = 1.00002
    space = gym.spaces.Box(-1.0, 1.0, (2,))
    dataset = read(tmp_path, arrays, action_space=space if declared else None)
    assert dataset.spaces.action == space
    assert column(dataset, "action")[7, 1] == 1.0
    assert "actions of 1 rows (the first is 7) lay outside their bounds by rounding" in notes(dataset)
    assert ("bounds guessed: [-1, 1]" in notes(dataset)) is not declared


def test_guessed_bounds_are_told_and_rounded(tmp_path: Path, arrays: Arrays) -> None:
    arrays["actions"][:2] = [[1.99999, 0.5], [-2.00001, -0.39998]]
    arrays["actions"][2:, 1] *= 0.3
    dataset = read(tmp_path, arrays)
    assert dataset.spaces.action.high.tolist() == [2.0, 0.5]
    assert dataset.spaces.action.low.tolist() == [-2.0, np.float32(-0.4)]
    assert "action bounds guessed: smallest and largest value of each component, -2 to 2" in notes(dataset)


def test_whole_numbers_as_floats_are_said_to_be_real(tmp_path: Path, arrays: Arrays) -> None:
    dataset = read(tmp_path, arrays | {"actions": CHOICES.astype(np.float32)})
    assert dataset.spaces.action == gym.spaces.Box(0.0, 2.0, (1,), np.float32)
    assert "whole numbers stored as floats, read as real numbers" in notes(dataset)


# ------------------------------------------------------------------------------------------------------ sizes and types
@pytest.mark.parametrize("value", [1e30, -1e16])
@pytest.mark.parametrize("field", ["observations", "rewards"])
def test_numbers_that_no_learner_can_square(tmp_path: Path, arrays: Arrays, field: str, value: float) -> None:
    arrays[field][5] = value
    with pytest.raises(ValueError, match=rf"a\.npz: {field} row 5 is .*above 1e\+15, too large to be squared"):
        read(tmp_path, arrays)


def test_a_reward_that_dwarfs_the_others_is_noted(tmp_path: Path, arrays: Arrays) -> None:
    assert "usual" not in notes(read(tmp_path, arrays))
    arrays["rewards"][8] = -1e9
    assert "the reward of row 8 has the size 1e+09, where 6 is usual" in notes(read(tmp_path, arrays))


def test_steps_that_float32_cannot_tell_are_noted(tmp_path: Path, arrays: Arrays) -> None:
    wide = {name: arrays[name].astype(np.float64) for name in ("observations", "final_observations")}
    assert "float32 can tell" not in notes(read(tmp_path, arrays | wide))
    wide["observations"][:, 1] = 1.7e9 + np.arange(12) / 20
    assert "observation features [1] change by less than float32 can tell" in notes(read(tmp_path, arrays | wide))


def test_integers_are_numbers_and_bytes_stay_bytes(tmp_path: Path, arrays: Arrays) -> None:
    for dtype in (np.int64, np.int16, bool):
        whole = {name: arrays[name].astype(dtype) for name in ("observations", "final_observations")}
        dataset = read(tmp_path, arrays | whole)
        assert dataset.spaces.observation == gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
        np.testing.assert_array_equal(column(dataset, "observation"), whole["observations"].astype(np.float32))
        assert dataset.episodes["initial_observation"].dtype == torch.float32
    ram = {name: np.abs(arrays[name]).astype(np.uint8) for name in ("observations", "final_observations")}
    dataset = read(tmp_path, arrays | ram)
    assert dataset.spaces.observation == gym.spaces.Box(0, 255, (3,), np.uint8)
    np.testing.assert_array_equal(dataset.steps["observation"].numpy(), ram["observations"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"observations": np.full((12, 3), 1 << 25)}, "observations row 0 .* float32 cannot hold exactly"),
        ({"observations": np.arange(12), "final_observations": np.arange(3)}, r"observations are integers \[N\]"),
        (
            {"final_observations": np.zeros((3, 3), np.uint8)},
            "final_observations is of type uint8, the",
        ),
        ({"final_observations": np.zeros((3, 3), "U1")}, "final_observations holds values of type"),
        ({"episode_lengths": np.array([4.0, 3.0, np.nan])}, "episode_lengths sums to nan"),
        ({"episode_lengths": np.array([4.5, 2.5, 5.0])}, r"all must be whole"),
        ({"episode_lengths": np.array([[4, 3, 5]])}, "episode_lengths sums to"),
        ({"rewards": np.zeros((12, 2))}, r"rewards has shape \(12, 2\)"),
        ({"rewards": np.zeros(12, "M8[s]")}, "rewards holds values of type datetime64"),
    ],
)
def test_fields_that_cannot_be_what_they_say(tmp_path: Path, arrays: Arrays, change: Arrays, said: str) -> None:
    if change.get("observations", np.zeros(0)).ndim == 2:
        change = change | {"final_observations": np.zeros((3, 3), np.int64)}
    with pytest.raises(ValueError, match=said):
        read(tmp_path, arrays | change)


def test_observations_in_the_units_of_their_space(tmp_path: Path, arrays: Arrays) -> None:
    unit = gym.spaces.Box(0.0, 1.0, (3,))
    frames = {name: np.full_like(arrays[name], 200, np.uint8) for name in ("observations", "final_observations")}
    with pytest.raises(ValueError, match=r"observations row 0 is .*an integer outside the observation space"):
        read(tmp_path, arrays | frames, observation_space=unit)
    said = notes(read(tmp_path, arrays, observation_space=unit))
    assert "observations of 11 rows (the first is 1) lie outside the bounds of the observation space" in said
    with pytest.raises(ValueError, match=r"observations row 1 .*of whole numbers"):
        read(tmp_path, arrays, observation_space=gym.spaces.Box(0, 255, (3,), np.uint8))
