"""Every format gives the same rows as the arrays it was written from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_dataset import ACTION_SPACE, OBSERVATION_SPACE, Arrays, write_hdf5

from datamodules.offline import OfflineDataModule
from datamodules.recorded.conversion import convert
from datamodules.recorded.converted import Converted
from datamodules.recorded.references import d4rl_reference, measured_reference

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")
FORMATS = ("hdf5", "npz", "memmap", "minari-hdf5", "minari-arrow", "minari-parquet")


def column(dataset: Converted, name: str) -> np.ndarray:
    place = dataset.columns[name]
    return dataset.steps["row"].numpy()[:, place.start : place.stop]


def checksum(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, dtype=np.float32)).hexdigest()


@pytest.mark.parametrize("name", FORMATS)
def test_rows_equal_the_source(name: str, write: Callable[[str], str], arrays: Arrays) -> None:
    dataset = convert([write(name)])
    assert len(dataset.steps) == 12
    assert checksum(column(dataset, "observation")) == checksum(arrays["observations"])
    assert checksum(column(dataset, "action")) == checksum(arrays["actions"])
    assert checksum(column(dataset, "next/reward")) == checksum(arrays["rewards"][:, None])
    np.testing.assert_array_equal(np.flatnonzero(column(dataset, "next/terminated")), [6])


@pytest.mark.parametrize("name", FORMATS)
def test_truncations_keep_their_true_next_observation(name: str, write: Callable[[str], str]) -> None:
    dataset = convert([write(name)])
    observation, following = column(dataset, "observation"), column(dataset, "next/observation")
    np.testing.assert_array_equal(following[:, 0], observation[:, 0] + 1)
    np.testing.assert_array_equal(following[:, 1:], following[:, :1] * [[0.5, -1.0]])
    np.testing.assert_array_equal(np.flatnonzero(column(dataset, "next/truncated")), [3, 11])


@pytest.mark.parametrize("name", FORMATS)
def test_episode_table(name: str, write: Callable[[str], str], arrays: Arrays) -> None:
    episodes = convert([write(name)]).episodes
    assert episodes["steps"].tolist() == episodes["length"].tolist() == [4, 3, 5]
    assert episodes["start"].tolist() == [0, 4, 7]
    assert episodes["return"].tolist() == [6.0, 15.0, 45.0]
    np.testing.assert_array_equal(episodes["initial_observation"].numpy(), arrays["observations"][[0, 4, 7]])


@pytest.mark.parametrize("name", FORMATS)
def test_drop_removes_time_out_rows_and_keeps_terminals_and_returns(name: str, write: Callable[[str], str]) -> None:
    dataset = convert([write(name)], truncation="drop")
    assert column(dataset, "next/reward")[:, 0].tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]
    assert dataset.episodes["length"].tolist() == [3, 3, 4]
    assert dataset.episodes["return"].tolist() == [6.0, 15.0, 45.0]
    assert not column(dataset, "next/truncated").any()


def test_plain_d4rl_drops_time_outs_because_their_next_observation_is_unknown(tmp_path: Path, arrays: Arrays) -> None:
    for name in ("final_observations", "episode_lengths"):
        del arrays[name]
    data = OfflineDataModule(
        str(write_hdf5(tmp_path / "hopper_medium-v2.hdf5", arrays)), cache_dir=str(tmp_path / "cache")
    )
    assert column(data.dataset, "next/reward")[:, 0].tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]
    inside = column(data.dataset, "next/terminated")[:, 0] == 0
    delta = column(data.dataset, "next/observation")[:, 0] - column(data.dataset, "observation")[:, 0]
    assert (delta[inside] == 1).all()
    assert "2 time-out rows are dropped" in data.info.card
    assert data.info.reference_max == 3234.3
    assert "convention" in data.info.reference_source


def test_d4rl_with_next_observations_keeps_time_outs(tmp_path: Path, arrays: Arrays) -> None:
    ends = np.cumsum(arrays.pop("episode_lengths")) - 1
    following = np.roll(arrays["observations"], -1, 0)
    following[ends] = arrays.pop("final_observations")
    arrays["next_observations"] = following
    dataset = convert([write_hdf5(tmp_path / "a.hdf5", arrays)], cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(column(dataset, "next/observation"), following)


def test_chunks_join_across_their_borders(
    tmp_path: Path, arrays: Arrays, write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write("hdf5")
    whole = convert([source], cache_dir=tmp_path / "whole")
    monkeypatch.setattr("datamodules.recorded.description.CHUNK_STEPS", 2)
    parts = convert([source], cache_dir=tmp_path / "parts")
    np.testing.assert_array_equal(whole.steps["row"].numpy(), parts.steps["row"].numpy())
    assert (whole.episodes == parts.episodes).all()


def test_several_sources_are_joined(tmp_path: Path, arrays: Arrays) -> None:
    first = write_hdf5(tmp_path / "a.h5", arrays)
    second = write_hdf5(tmp_path / "b.h5", arrays | {"rewards": arrays["rewards"] + 100})
    dataset = convert([first, second], cache_dir=tmp_path / "cache")
    assert len(dataset.steps) == 24
    assert dataset.episodes["start"].tolist() == [0, 4, 7, 12, 16, 19]
    assert dataset.episodes["return"][3:].tolist() == [406.0, 315.0, 545.0]


def test_spaces_of_the_environment_and_references_of_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "observations": rng.uniform(-1, 1, (4, 3)).astype(np.float32),
        "actions": np.array([[1.5], [-2.0], [0.0], [2.0]], np.float32),
        "rewards": np.full(4, -2.0, np.float32),
        "terminals": np.zeros(4, bool),
        "timeouts": np.array([0, 1, 0, 1], bool),
        "final_observations": np.zeros((2, 3), np.float32),
    }
    path = write_hdf5(tmp_path / "p.h5", arrays, {"env_id": "Pendulum-v1", "ref_random": -10.0, "ref_expert": 0.0})
    data = OfflineDataModule(str(path), cache_dir=str(tmp_path / "cache"))
    assert data.info.environment == "Pendulum-v1"
    assert data.spaces.action.high.tolist() == [2.0]
    assert data.info.normalized(data.info.episode_returns).tolist() == [60.0, 60.0]
    by_hand = OfflineDataModule(str(path), cache_dir=str(tmp_path / "cache"), reference_min=-4.0, reference_max=4.0)
    assert by_hand.info.normalized(0.0) == 50.0


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_spaces_are_inferred_and_said_so(
    tmp_path: Path, arrays: Arrays, scale: float, caplog: pytest.LogCaptureFixture
) -> None:
    arrays["actions"] *= scale
    spaces = convert([write_hdf5(tmp_path / "a.h5", arrays)], cache_dir=tmp_path / "cache").spaces
    assert "inferred" in caplog.text
    assert spaces.observation == OBSERVATION_SPACE
    if scale == 1.0:
        assert spaces.action == ACTION_SPACE
    else:
        np.testing.assert_array_equal(spaces.action.high, arrays["actions"].max(0))
    given = convert([tmp_path / "a.h5"], cache_dir=tmp_path / "cache", action_space=type(ACTION_SPACE)(-9, 9, (2,)))
    assert given.spaces.action.high.tolist() == [9.0, 9.0]


def test_minari_references_and_path(tmp_path: Path, write: Callable[[str], str]) -> None:
    name = write("minari-hdf5")
    metadata = tmp_path / "minari" / name / "data" / "metadata.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"ref_min_score": 1.0, "ref_max_score": 11.0}))
    data = OfflineDataModule(name)
    assert data.info.name == name
    assert data.info.normalized(6.0) == pytest.approx(50.0)
    by_path = OfflineDataModule(str(tmp_path / "minari" / name))
    assert by_path.info.content_hash == data.info.content_hash


def test_pixels_and_discrete_actions_keep_their_types(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 4, 4, 2), dtype=np.uint8)
    np.savez(
        tmp_path / "pixels.npz",
        observations=pixels,
        actions=np.array([0, 1, 2, 0, 1, 2]),
        rewards=np.arange(6.0),
        terminals=np.array([0, 0, 1, 0, 0, 0]),
        timeouts=np.zeros(6),
        final_observations=np.zeros((2, 4, 4, 2), np.uint8),
    )
    data = OfflineDataModule(
        str(tmp_path / "pixels.npz"), batch_size=64, validation_fraction=0.0, cache_dir=str(tmp_path / "cache")
    )
    assert data.spaces.action.n == 3
    batch = next(iter(data.train_dataloader()))
    assert batch["observation"].dtype.itemsize == 1
    rows = batch["next", "reward"].squeeze(1).long()
    np.testing.assert_array_equal(batch["observation"].numpy(), pixels[rows])
    assert batch["action"].tolist() == [row % 3 for row in rows.tolist()]
    ends = batch["next", "observation"][rows == 5]
    assert len(ends) > 0
    assert not ends.any()


@pytest.mark.parametrize(
    ("name", "scores"),
    [
        ("Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse", (0.0, 1.0)),
        ("Ant_maze_hardest-maze_noisy_multistart_True_multigoal_True_sparse_fixed", (0.0, 1.0)),
        ("antmaze-umaze-diverse-v2", (0.0, 1.0)),
        ("maze2d-umaze-sparse-v1", (23.85, 161.86)),
        ("maze2d-umaze-dense-v1", (68.537689, 193.66285642381482)),
        ("maze2d-large-dense-v1", (30.569041, 303.4857382709002)),
        ("hopper_full_replay-v2", (-20.272305, 3234.3)),
        ("door-v0_demos_clipped", (-56.512833, 2880.5693087298737)),
        ("kitchen_microwave_kettle_light_slider-v0", (0.0, 4.0)),
    ],
)
def test_d4rl_files_by_their_real_names(name: str, scores: tuple[float, float]) -> None:
    reference = d4rl_reference(name)
    assert reference is not None
    assert reference[:2] == scores
    assert "guessed" not in reference.source


def test_names_that_only_begin_like_those_of_d4rl() -> None:
    for name in ("door_opening_study", "hopper", "hopper_medium", "ant_maze_mine-v0", "pen-human", "antelope-v2"):
        assert d4rl_reference(name) is None, name
    guessed = d4rl_reference("D4RL/pen/human-v2")
    assert guessed is not None
    assert guessed.source.startswith("guessed from the file name")


def test_reference_tables() -> None:
    assert d4rl_reference("D4RL/antmaze/large-play-v1")[:2] == (0.0, 1.0)
    assert d4rl_reference("ant_medium-v2")[:2] == (-325.6, 3879.7)
    assert d4rl_reference("maze2d-large-v1")[:2] == (6.7, 273.99)
    assert d4rl_reference("antelope-v2") is None
    assert measured_reference("Hopper-v5")[:2] == (12.379345542140559, 3550.1004789077897)
    assert measured_reference(None) is None


def test_metadata_json_is_plain(write: Callable[[str], str]) -> None:
    dataset = convert([write("minari-hdf5")])
    metadata = json.loads((dataset.folder / "dataset.json").read_text())
    assert metadata["terminals"] == 1
    assert metadata["timeouts"] == 2
