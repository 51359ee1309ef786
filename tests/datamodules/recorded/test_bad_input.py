"""Each kind of bad input is refused with a short message that names the file, the field and the row."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np
import pytest
from tensordict import NonTensorData, TensorDict
from tiny_dataset import Arrays, write_hdf5

from datamodules.offline import OfflineDataModule
from datamodules.recorded.conversion import convert
from datamodules.recorded.dataset_info import check_environment
from modules.batch import Spaces
from modules.same_spaces import check_same_spaces

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")


def refused(source: object, tmp_path: Path, *parts: str, **options: object) -> str:
    """The message with which a source is refused; it holds all parts, fits a screen, and nothing was kept."""
    with pytest.raises(ValueError, match=re.escape(parts[0])) as caught:
        convert([str(source)], cache_dir=tmp_path / "cache", **options)
    message = str(caught.value)
    assert all(part in message for part in parts), message
    assert len(message) < 800
    assert message.count("\n") < 20
    cache = tmp_path / "cache"
    assert not cache.exists() or not [path for path in cache.iterdir() if path.is_dir()]
    return message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("field", ["observations", "actions", "rewards"])
def test_not_finite(tmp_path: Path, arrays: Arrays, field: str, value: float) -> None:
    arrays[field][5] = value
    refused(write_hdf5(tmp_path / "bad.h5", arrays), tmp_path, "bad.h5", f"{field} row 5", "not finite")


def test_not_finite_names_the_row_of_a_later_chunk(
    tmp_path: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datamodules.recorded.description.CHUNK_STEPS", 2)
    arrays["rewards"][9] = np.nan
    refused(write_hdf5(tmp_path / "bad.h5", arrays), tmp_path, "rewards row 9")


def test_final_observation_not_finite(tmp_path: Path, arrays: Arrays) -> None:
    arrays["final_observations"][0] = np.nan
    refused(write_hdf5(tmp_path / "bad.h5", arrays), tmp_path, "next observations row 3")


def test_text_instead_of_numbers(tmp_path: Path, arrays: Arrays) -> None:
    arrays["rewards"] = np.array(["x"] * len(arrays["rewards"]))
    np.savez(tmp_path / "bad.npz", **arrays)
    refused(tmp_path / "bad.npz", tmp_path, "bad.npz", "rewards", "no real numbers")


def test_too_large_for_float32(tmp_path: Path, arrays: Arrays) -> None:
    arrays["rewards"] = arrays["rewards"].astype(np.float64)
    arrays["rewards"][2] = 1e300
    refused(write_hdf5(tmp_path / "bad.h5", arrays), tmp_path, "rewards row 2", "float32")


def test_action_outside_the_space(tmp_path: Path, arrays: Arrays) -> None:
    arrays["actions"][7, 1] = 1.01
    path = write_hdf5(tmp_path / "bad.h5", arrays)
    space = gym.spaces.Box(-1.0, 1.0, (2,))
    refused(path, tmp_path, "bad.h5", "actions row 7", "1.01", "outside", action_space=space)
    arrays["actions"][7, 1] = 1.0 + 1e-7  # rounding is no mistake
    convert([write_hdf5(path, arrays)], cache_dir=tmp_path / "cache", action_space=space)


def test_wrong_shape(tmp_path: Path, arrays: Arrays) -> None:
    space = gym.spaces.Box(-1.0, 1.0, (3,))
    refused(write_hdf5(tmp_path / "bad.h5", arrays), tmp_path, "actions", "(2,)", "(3,)", action_space=space)


@pytest.mark.parametrize("field", ["actions", "rewards", "terminals", "timeouts"])
def test_lengths_that_differ(tmp_path: Path, arrays: Arrays, field: str) -> None:
    arrays[field] = arrays[field][:-1]
    refused(write_hdf5(tmp_path / "bad.h5", arrays), tmp_path, "bad.h5", "lengths differ", field, "12", "11")


def test_episode_fields_that_do_not_fit(tmp_path: Path, arrays: Arrays) -> None:
    short = arrays | {"final_observations": arrays["final_observations"][:2]}
    refused(write_hdf5(tmp_path / "a.h5", short), tmp_path, "final_observations", "2 rows", "3 episodes")
    lengths = arrays | {"episode_lengths": np.array([4, 3, 4])}
    refused(write_hdf5(tmp_path / "b.h5", lengths), tmp_path, "episode_lengths sums to 11", "12 rows")
    inside = arrays | {"episode_lengths": np.array([5, 2, 5])}
    refused(write_hdf5(tmp_path / "c.h5", inside), tmp_path, "row 3", "inside an episode")


@pytest.mark.parametrize("field", ["observations", "actions", "rewards", "terminals", "timeouts"])
def test_missing_field(tmp_path: Path, arrays: Arrays, field: str) -> None:
    del arrays[field]
    refused(write_hdf5(tmp_path / "bad.h5", arrays), tmp_path, "bad.h5", f"missing field {field}")
    np.savez(tmp_path / "bad.npz", **arrays)
    refused(tmp_path / "bad.npz", tmp_path, "bad.npz", f"missing field {field}")


def test_empty(tmp_path: Path, arrays: Arrays) -> None:
    empty = {name: values[:0] for name, values in arrays.items()}
    refused(write_hdf5(tmp_path / "bad.h5", empty), tmp_path, "bad.h5", "empty")


def test_nothing_left_after_dropping(tmp_path: Path, arrays: Arrays) -> None:
    one_step = {name: values[:1] for name, values in arrays.items()} | {"episode_lengths": np.array([1])}
    refused(write_hdf5(tmp_path / "bad.h5", one_step), tmp_path, "bad.h5", "cut: set it to keep", truncation="drop")
    assert convert([tmp_path / "bad.h5"], cache_dir=tmp_path / "cache").metadata["timeouts"] == 1


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("name", ["hdf5", "npz"])
def test_truncated_file(tmp_path: Path, write: Callable[[str], str], name: str, share: float) -> None:
    path = Path(write(name))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refused(path, tmp_path, str(path))


def test_truncated_memmap_is_refused_and_left_alone(tmp_path: Path, write: Callable[[str], str]) -> None:
    file = Path(write("memmap")) / "next" / "reward.memmap"
    file.write_bytes(file.read_bytes()[:40])
    refused(file.parents[1], tmp_path, "reward.memmap", "40 of 48 bytes")
    assert file.stat().st_size == 40
    file.unlink()
    refused(file.parents[1], tmp_path, "reward.memmap", "truncated")
    (file.parent / "meta.json").write_text("{}")
    refused(file.parents[1], tmp_path, "missing field next/observation")


def test_text_file(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no data")
    refused(tmp_path / "notes.txt", tmp_path, "notes.txt", "cannot tell its format")
    refused(tmp_path / "nowhere.h5", tmp_path, "nowhere.h5", "no such file")
    refused(tmp_path / "notes.txt", tmp_path, "unknown dataset format 'csv'", format="csv")


def test_a_folder_that_is_no_dataset_is_not_read_through(
    tmp_path: Path, write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    memmap = write("memmap")
    with monkeypatch.context() as patch:
        patch.setattr(
            "datamodules.recorded.conversion.content_hash", lambda path: pytest.fail(f"{path} was read through")
        )
        for format in ("auto", "hdf5", "memmap"):
            refused(tmp_path, tmp_path, str(tmp_path), "cannot tell its format", format=format)
        refused(memmap, tmp_path, "is of the format memmap, not minari", format="minari")
    assert len(convert([memmap], cache_dir=tmp_path / "cache", format="memmap").steps) == 12


class Bomb:
    """Unpickling this would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_pickled_object_is_never_loaded(tmp_path: Path, arrays: Arrays) -> None:
    trap = np.array([Bomb(tmp_path / "exploded")], dtype=object)
    np.savez(tmp_path / "bad.npz", **(arrays | {"rewards": trap}))
    refused(tmp_path / "bad.npz", tmp_path, "bad.npz", "rewards", "pickled")
    trap.dump(tmp_path / "bare.npz")
    refused(tmp_path / "bare.npz", tmp_path, "bare.npz", "pickled")
    TensorDict({"note": NonTensorData(Bomb(tmp_path / "exploded"))}, [3]).memmap_(tmp_path / "bad-td")
    refused(tmp_path / "bad-td", tmp_path, "bad-td", "pickled")
    assert not (tmp_path / "exploded").exists()


def test_minari_version_that_cannot_be_read(tmp_path: Path, write: Callable[[str], str]) -> None:
    name = write("minari-hdf5")
    path = tmp_path / "minari" / name / "data" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"minari_version": "9.9.9"}))
    refused(name, tmp_path, name, "Minari 9.9.9", "0.5.4")


def test_minari_damaged(tmp_path: Path, write: Callable[[str], str]) -> None:
    name = write("minari-hdf5")
    folder = tmp_path / "minari" / name / "data"
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        rewards = file["episode_1/rewards"][:]
        del file["episode_1/rewards"]
        file["episode_1/rewards"] = rewards[:-1]
    refused(name, tmp_path, name, "episode 1", "lengths differ", "rewards")
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        del file["episode_1/rewards"]
    refused(name, tmp_path, name, "episode 1", "rewards")
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        del file["episode_1"]
    refused(name, tmp_path, name, "episode 1")
    (folder / "metadata.json").write_text('{"total_steps": ')
    refused(name, tmp_path, name, "metadata.json", "truncated")


def test_minari_arrow_truncated(tmp_path: Path, write: Callable[[str], str]) -> None:
    name = write("minari-arrow")
    part = next((tmp_path / "minari" / name / "data" / "2").glob("*.arrow"))
    part.write_bytes(part.read_bytes()[:100])
    refused(name, tmp_path, name, "episode 2")


def test_a_download_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class ConnectError(Exception):
        """The error of an HTTP library: no OSError."""

    def unreachable(_: str) -> None:
        raise ConnectError("Name or service not known\nsecond line")

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setattr("minari.download_dataset", unreachable)
    expected = "cannot be downloaded (ConnectError: Name or service not known)"
    refused("mujoco/hopper/medium-v0", tmp_path, expected, download=True)


def test_minari_can_download_as_installed() -> None:
    from minari.storage.remotes.huggingface import HuggingFaceStorage  # fails without its packages

    assert HuggingFaceStorage.__module__ in sys.modules


def test_minari_missing_is_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.chdir(tmp_path)  # the data of the default run may be in the folder of the project
    refused(
        "mujoco/hopper/medium-v0",
        tmp_path,
        "mujoco/hopper/medium-v0",
        "`reverie datasets check mujoco/hopper/medium-v0 --download true`",
    )
    refused("data/minari/pendulum/mixed-v0", tmp_path, "reverie collect --config collect/pendulum")
    assert not (tmp_path / "minari").exists()


def test_dataset_of_another_environment(tmp_path: Path, arrays: Arrays) -> None:
    path = write_hdf5(tmp_path / "a.h5", arrays, {"env_id": "NoSuchEnv-v7"})
    options = {"cache_dir": str(tmp_path / "cache")}
    with pytest.raises(ValueError, match=r"recorded in NoSuchEnv-v7, but Pendulum-v1"):
        assert OfflineDataModule(str(path), environment="Pendulum-v1", **options).spaces
    data = OfflineDataModule(str(path), environment="NoSuchEnv-v7", **options)
    check_environment(data.info, "NoSuchEnv-v7")
    check_same_spaces("it", data.spaces, "NoSuchEnv-v7", data.spaces)
    other = Spaces(data.spaces.observation, gym.spaces.Discrete(2))
    with pytest.raises(ValueError, match=r"it does not fit NoSuchEnv-v7: its action space is Box.* is Discrete"):
        check_same_spaces("it", data.spaces, "NoSuchEnv-v7", other)


def test_unknown_environment_of_the_user(tmp_path: Path, arrays: Arrays) -> None:
    refused(write_hdf5(tmp_path / "a.h5", arrays), tmp_path, "Pendulum-v1", environment="Pendulun-v1")


def test_sources_that_do_not_fit_each_other(tmp_path: Path, arrays: Arrays) -> None:
    first = write_hdf5(tmp_path / "a.h5", arrays)
    wider = arrays | {"actions": np.zeros((12, 3), np.float32)}
    second = write_hdf5(tmp_path / "b.h5", wider)
    with pytest.raises(ValueError, match=r"a\.h5 and .*b\.h5 cannot be joined"):
        convert([first, second], cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"reference_min": 0.0}, "both reference_min and reference_max"),
        ({"storage": "memmap", "storage_device": "cuda"}, "cannot be on storage_device: cuda"),
    ],
)
def test_arguments(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OfflineDataModule("x.h5", **options)


def test_references_the_wrong_way_round(tmp_path: Path, arrays: Arrays) -> None:
    path = write_hdf5(tmp_path / "a.h5", arrays)
    data = OfflineDataModule(str(path), cache_dir=str(tmp_path / "cache"), reference_min=5.0, reference_max=1.0)
    with pytest.raises(ValueError, match="must be greater"):
        assert data.info
