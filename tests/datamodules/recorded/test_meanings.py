"""Numbers that could be taken for others are read as what they are, or refused with file, field and row."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np
import pytest
import torch
from reading import column, notes, read
from tiny_dataset import Arrays, write_memmap, write_minari

from datamodules.recorded.conversion import convert


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
