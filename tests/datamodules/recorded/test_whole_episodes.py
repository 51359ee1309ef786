"""Whole episodes of a converted dataset: their rows in order, and the split of a run that is a part of this one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_dataset import LENGTHS, make_arrays, write_hdf5

from datamodules.offline import OfflineDataModule
from datamodules.recorded.converted import Converted
from datamodules.recorded.whole_episodes import read_episodes, split
from modules.batch import Transition


@pytest.fixture
def dataset(tmp_path: Path) -> Converted:
    return OfflineDataModule(str(write_hdf5(tmp_path / "d.h5", make_arrays())), cache_dir=str(tmp_path)).dataset


def test_rows_are_those_of_the_episodes_in_the_order_asked_for(dataset: Converted) -> None:
    arrays = make_arrays()
    found = read_episodes(dataset, np.array([2, 0]))
    kept = [dataset.episodes["length"][e].item() for e in (2, 0)]
    assert found.length.tolist() == kept
    assert found.first.tolist() == [0, kept[0]]
    assert found.last.tolist() == [kept[0] - 1, sum(kept) - 1]
    counters = [*(200 + t for t in range(kept[0])), *range(kept[1])]
    assert found.steps.observation[:, 0].tolist() == counters
    assert found.steps.next_observation[:, 0].tolist() == [c + 1 for c in counters]
    rows = [*range(7, 7 + kept[0]), *range(kept[1])]
    np.testing.assert_array_equal(found.steps.action.numpy(), arrays["actions"][rows])
    np.testing.assert_array_equal(found.steps.reward.numpy(), arrays["rewards"][rows])
    assert read_episodes(dataset, np.array([1])).steps.terminated.tolist() == [False, False, True]


def test_at_least_one_episode_is_held_out_and_not_all(dataset: Converted) -> None:
    for fraction, count in ((0.0, 1), (0.4, 1), (1.0, 2)):
        train, held_out = split(dataset, fraction, seed=0)
        assert len(held_out.length) == count
        assert len(train.length) == len(LENGTHS) - count
    first, again = split(dataset, 0.4, seed=1), split(dataset, 0.4, seed=1)
    assert torch.equal(first[1].steps.observation, again[1].steps.observation)


def test_a_run_has_trained_on_none_of_what_it_held_out(tmp_path: Path) -> None:
    source = str(write_hdf5(tmp_path / "d.h5", make_arrays()))
    for seed in range(5):
        data = OfflineDataModule(source, cache_dir=str(tmp_path), seed=seed, validation_fraction=0.34, batch_size=64)
        seen = Transition.from_tensordict(next(iter(data.val_dataloader()))).observation[:, 0]
        ours = split(data.dataset, 0.67, seed=seed)[1].steps.observation[:, 0]
        assert set(seen.tolist()) <= set(ours.tolist())


def test_a_single_episode_is_refused(tmp_path: Path) -> None:
    arrays = {name: x[:4] if len(x) == 12 else x[:1] for name, x in make_arrays().items()}
    data = OfflineDataModule(str(write_hdf5(tmp_path / "d.h5", arrays)), cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match="d has 1 episodes; two are the least"):
        split(data.dataset, 0.2, seed=0)
