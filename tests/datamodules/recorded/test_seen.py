"""Recorded Dict, image and 2-D observations: what is trained on, and that the environment is seen the same way."""

from __future__ import annotations

from pathlib import Path

import goals
import gymnasium as gym
import h5py
import numpy as np
import pytest
from gymnasium import spaces
from tiny_dataset import make_arrays, write_hdf5

from datamodules.envs.plain import plain_space
from datamodules.envs.wrappers import ResizeImages, resize_image
from datamodules.offline import OfflineDataModule
from datamodules.recorded.conversion import convert
from datamodules.recorded.seen import View

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path / "cache"))


def rows_of(data: OfflineDataModule, name: str) -> np.ndarray:
    column = data.dataset.columns[name]
    return data.dataset.steps["row"].numpy()[:, column.start : column.stop]


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        (None, goals.PARTS),
        (["observation", "desired_goal"], ["observation", "desired_goal/far", "desired_goal/side"]),
        (["desired_goal/far", "achieved_goal"], ["desired_goal/far", "achieved_goal"]),
    ],
)
def test_parts_of_a_dict_are_joined_in_the_data_and_in_the_environment(
    keys: list[str] | None, parts: list[str]
) -> None:
    episodes = goals.record()
    data = OfflineDataModule("goal/steered-v0", observation_keys=keys)
    for name, some in (("observation", slice(-1)), ("next/observation", slice(1, None))):
        expected = np.stack([goals.by_hand(row, parts) for episode in episodes for row in episode[some]])
        np.testing.assert_array_equal(rows_of(data, name), expected)
    starts = np.stack([goals.by_hand(episode[0], parts) for episode in episodes])
    np.testing.assert_array_equal(data.dataset.episodes["initial_observation"].numpy(), starts)
    # The environment that the run evaluates in gives the same numbers.
    assert data.environment_spec is not None
    env, raw = data.environment_spec.make(), gym.make("goals/Goal-v0")
    assert env.observation_space.shape == data.spaces.observation.shape
    np.testing.assert_array_equal(env.reset(seed=9)[0], goals.by_hand(raw.reset(seed=9)[0], parts))
    action = np.full(2, 0.5, np.float32)
    np.testing.assert_array_equal(env.step(action)[0], goals.by_hand(raw.step(action)[0], parts))
    assert data.spaces.observation.contains(env.reset(seed=1)[0])


def test_what_is_joined_is_said_and_kept_in_the_conversion(tmp_path: Path) -> None:
    goals.record(text=True)
    data = OfflineDataModule("goal/steered-v0")
    with pytest.warns(match=r"achieved_goal, desired_goal/far, .*, observation, phase, joined in this order"):
        data.dataset  # noqa: B018 - opened when it is first asked for
    assert "joined from  achieved_goal, desired_goal/far" in data.info.card
    folder = data.dataset.folder
    assert OfflineDataModule(str(folder), observation_keys=goals.PARTS).dataset.folder == folder
    with pytest.raises(ValueError, match=r"converted with observation_keys: .*; leave observation_keys out"):
        convert([folder], view=View(["phase"]))
    assert convert(["goal/steered-v0"], view=View(["phase"])).folder != folder


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            ["speed"],
            "the observation has no part speed; it has achieved_goal, desired_goal/far, desired_goal/side, obs",
        ),
        (["say"], r"say holds no numbers but .*; it has achieved_goal"),
        (["observation", "observation"], "observation is there twice"),
        (["desired_goal", "desired_goal/far"], "desired_goal/far is there twice"),
        ([], "no part of the observation is chosen; it has achieved_goal"),
    ],
)
def test_wrong_keys_are_refused_with_those_that_there_are(keys: list[str], said: str, tmp_path: Path) -> None:
    goals.record(text=True)
    with pytest.raises(ValueError, match=said) as told:
        OfflineDataModule("goal/steered-v0", observation_keys=keys).dataset  # noqa: B018
    assert len(str(told.value).splitlines()) == 1
    assert len(str(told.value)) < 400
    assert not [path for path in (tmp_path / "cache").glob("*") if path.is_dir()]


def test_a_part_that_is_not_what_its_space_says_is_named(tmp_path: Path) -> None:
    goals.record()
    file = tmp_path / "minari/goal/steered-v0/data/main_data.hdf5"
    with h5py.File(file, "r+") as opened:
        opened["episode_1/observations/achieved_goal"][3, 1] = np.nan
    with pytest.raises(ValueError, match=r"observations 'achieved_goal' row 11 is \[.*nan\]"):
        convert(["goal/steered-v0"])
    with h5py.File(file, "r+") as opened:
        opened["episode_1/observations/achieved_goal"][3, 1] = 0.0
        opened["episode_2/observations/phase"][0] = 40
    with pytest.raises(ValueError, match=r"observations 'phase' row 16 is 40, outside"):
        convert(["goal/steered-v0"])


def flat(path: Path, observations: np.ndarray, **more: np.ndarray) -> Path:
    steps = len(observations)
    ends = np.arange(steps) == steps - 1
    arrays = {"actions": np.zeros((steps, 1)), "rewards": np.arange(steps), "terminals": ends, "timeouts": 0 * ends}
    np.savez(path, observations=observations, **(arrays | more))
    return path


def test_small_2d_observations_are_flattened_and_pictures_stay_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    board = rng.normal(size=(6, 3, 4)).astype(np.float32)
    data = OfflineDataModule(str(flat(tmp_path / "board.npz", board)))
    assert data.spaces.observation.shape == (12,)
    np.testing.assert_array_equal(rows_of(data, "observation"), board.reshape(6, 12))
    # Bytes [H, W] and [C, H, W] become [H, W, C], as they do in an environment, and stay bytes in the files.
    for number, shape in enumerate(((9, 10), (3, 12, 10), (9, 10, 1))):
        images = rng.integers(0, 256, (6, *shape), np.uint8)
        data = OfflineDataModule(str(flat(tmp_path / f"{number}.npz", images)))
        space, plain = plain_space(spaces.Box(0, 255, shape, np.uint8))
        assert data.spaces.observation == space
        expected = images if plain is None else np.stack([plain(image) for image in images])
        stored = data.dataset.steps["observation"]
        assert stored.dtype.itemsize == 1
        np.testing.assert_array_equal(stored.numpy(), expected)


def test_images_are_resized_in_the_data_and_in_the_environment(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 10, 8, 1), np.uint8)
    data = OfflineDataModule(str(flat(tmp_path / "a.npz", images)), resize=5)
    assert data.spaces.observation.shape == (5, 5, 1)
    expected = np.stack([resize_image(image, 5) for image in images])
    np.testing.assert_array_equal(data.dataset.steps["observation"].numpy(), expected)
    catch = OfflineDataModule(
        str(flat(tmp_path / "b.npz", np.zeros((3, 10, 5, 1), np.uint8), actions=np.zeros(3, np.int64))),
        environment="reverie/Catch-v0",
        resize=4,
    )
    assert catch.environment_spec is not None
    assert catch.environment_spec.make().observation_space == catch.spaces.observation
    with pytest.raises(ValueError, match="no image to resize"):
        OfflineDataModule(str(flat(tmp_path / "c.npz", np.zeros((3, 2)))), resize=4).dataset  # noqa: B018
    with pytest.raises(ValueError, match="observation_keys choose parts of a Dict"):
        OfflineDataModule(str(tmp_path / "c.npz"), observation_keys=["a"]).dataset  # noqa: B018


@pytest.mark.parametrize("size", [0, 1_000_000])
def test_a_size_that_no_image_has_is_refused_before_memory_is_asked_for(tmp_path: Path, size: int) -> None:
    arrays = make_arrays() | {"observations": np.zeros((12, 9, 8, 1), np.uint8)}
    del arrays["final_observations"]
    data = OfflineDataModule(str(write_hdf5(tmp_path / "images.h5", arrays)), resize=size)
    with pytest.raises(ValueError, match=r"resize must lie in \[1, 4096\]"):
        data.dataset  # noqa: B018 - opened when it is first asked for
    with pytest.raises(ValueError, match=r"size must lie in \[1, 4096\]"):
        ResizeImages(gym.make("reverie/Catch-v0"), size)
