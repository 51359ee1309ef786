"""The best episodes of a dataset are written whole and in order, with what is known of their ends and environment."""

from __future__ import annotations

from pathlib import Path

import goals
import numpy as np
import pytest
import torch
from tiny_dataset import Arrays, write_hdf5

from commands.collect import collect
from commands.datasets import best
from datamodules.offline import OfflineDataModule
from datamodules.recorded.best_episodes import best_episodes, write_best_episodes
from datamodules.recorded.conversion import convert
from datamodules.recorded.sources import open_source


def test_the_share_with_the_highest_returns_at_least_one_and_of_equal_ones_the_first() -> None:
    returns = np.array([1.0, 5.0, 3.0, 5.0, 5.0, 0.0, 2.0, -1.0, 4.0, 1.0])
    assert np.flatnonzero(best_episodes(returns, 0.2)).tolist() == [1, 3]
    assert np.flatnonzero(best_episodes(returns, 0.01)).tolist() == [1]
    assert best_episodes(returns, 1.0).all()


def test_rows_ends_and_description_are_those_of_the_episodes(
    tmp_path: Path, arrays: Arrays, capsys: pytest.CaptureFixture[str]
) -> None:
    """The returns of the three episodes are 6, 15 and 45, when rewards count the rows."""
    meta = {"name": "tiny", "env_id": "Hopper-v5", "ref_random": 1.0, "ref_expert": 50.0}
    source = write_hdf5(tmp_path / "all.h5", arrays, {**meta, "env_id": None})
    best(str(source), str(tmp_path / "best.h5"), 0.6)
    assert "2 of 3 episodes, 8 steps, mean return 30.0" in capsys.readouterr().out
    made, whole = (convert([path], cache_dir=tmp_path / "cache") for path in (tmp_path / "best.h5", source))
    assert (made.steps["row"] == whole.steps["row"][4:]).all()  # next observations and flags are in the rows
    for name in ("steps", "return", "initial_observation"):
        assert (made.episodes[name] == whole.episodes[name][1:]).all()
    assert made.metadata["name"] == "tiny-best60"
    assert (made.metadata["reference_min"], made.metadata["reference_max"]) == (1.0, 50.0)
    described = open_source(write_hdf5(tmp_path / "hopper.h5", arrays, meta))
    write_best_episodes(described, tmp_path / "hopper-best.h5", 0.3)
    assert open_source(tmp_path / "hopper-best.h5").environment == described.environment is not None


def test_ends_that_the_source_does_not_know_stay_unknown(tmp_path: Path, arrays: Arrays) -> None:
    del arrays["final_observations"]
    source = open_source(write_hdf5(tmp_path / "all.h5", arrays))
    assert write_best_episodes(source, tmp_path / "best.h5", 0.6).steps == 8
    made = convert([tmp_path / "best.h5"], cache_dir=tmp_path / "cache")
    assert made.episodes["steps"].tolist() == [3, 5]
    assert made.episodes["length"].tolist() == [3, 4]  # the row of the time-out is not trained on


@pytest.mark.parametrize(
    ("output", "fraction", "words"),
    [
        ("best.h5", 0.0, r"fraction must lie in \(0, 1\], got 0.0"),
        ("best.h5", 1.5, r"fraction must lie in \(0, 1\], got 1.5"),
        ("best.npz", 0.1, "must end in .h5 or .hdf5"),
        ("all.h5", 0.1, "exists already"),
    ],
)
def test_refusals_write_nothing(tmp_path: Path, arrays: Arrays, output: str, fraction: float, words: str) -> None:
    source = write_hdf5(tmp_path / "all.h5", arrays)
    with pytest.raises(ValueError, match=words):
        best(str(source), str(tmp_path / output), fraction)
    assert [path.name for path in tmp_path.iterdir()] == ["all.h5"]


def test_rewards_that_are_no_numbers_and_conversions_are_refused(tmp_path: Path, arrays: Arrays) -> None:
    folder = convert([write_hdf5(tmp_path / "good.h5", arrays)], cache_dir=tmp_path / "cache").folder
    with pytest.raises(ValueError, match="is a conversion; give the dataset that it was converted from"):
        best(str(folder), str(tmp_path / "best.h5"))
    arrays["rewards"][5] = np.nan
    with pytest.raises(ValueError, match="episode 1 has no finite return"):
        best(str(write_hdf5(tmp_path / "bad.h5", arrays)), str(tmp_path / "best.h5"))
    assert not (tmp_path / "best.h5").exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("keys", [None, ["observation", "desired_goal"]])
def test_parts_of_observations_are_joined_in_the_data_and_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: list[str] | None
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    goals.record()
    best("goal/steered-v0", str(tmp_path / "best.h5"), 0.5, observation_keys=keys)
    made = OfflineDataModule(str(tmp_path / "best.h5"), cache_dir=str(tmp_path / "cache"))
    whole = OfflineDataModule("goal/steered-v0", observation_keys=keys, cache_dir=str(tmp_path / "cache"))
    chosen = best_episodes(whole.info.episode_returns, 0.5)
    rows = [row for row, kept in zip(whole.dataset.steps["row"].split(goals.LENGTH), chosen, strict=True) if kept]
    np.testing.assert_array_equal(made.dataset.steps["row"], torch.cat(rows))
    envs = [data.environment_spec.make() for data in (made, whole) if data.environment_spec is not None]
    starts = [env.reset(seed=1)[0] for env in envs]
    np.testing.assert_array_equal(*starts)
    with pytest.raises(ValueError, match="the observation has no part speed"):
        best("goal/steered-v0", str(tmp_path / "other.h5"), 0.5, observation_keys=["speed"])
    with pytest.raises(ValueError, match="leave them out"):
        best(str(tmp_path / "best.h5"), str(tmp_path / "other.h5"), 0.5, observation_keys=["speed"])
    assert not (tmp_path / "other.h5").exists()


def test_observations_in_plain_form_have_their_environment_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collect("FrozenLake-v1", "lake/random-v0", transitions=100, root=str(tmp_path))
    best(str(tmp_path / "lake/random-v0"), str(tmp_path / "best.h5"), 0.5)
    data = OfflineDataModule(str(tmp_path / "best.h5"), cache_dir=str(tmp_path / "cache"))
    assert data.environment_spec is not None
    start, _ = data.environment_spec.make().reset()
    np.testing.assert_array_equal(data.dataset.episodes["initial_observation"][0], start)
