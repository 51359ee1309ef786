"""The datamodule: what a batch holds, who samples what, and that sampling repeats and resumes."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from pytorch_lightning import LightningModule, Trainer
from tensordict import TensorDictBase
from tiny_dataset import Arrays, write_hdf5
from torchrl.data import SamplerWithoutReplacement

from datamodules.offline import OfflineDataModule
from datamodules.replay.transitions import gather
from modules.batch import Transition


@pytest.fixture
def make(tmp_path: Path, arrays: Arrays) -> Any:
    path = write_hdf5(tmp_path / "tiny.h5", arrays)

    def make_module(**options: Any) -> OfflineDataModule:
        options = {"batch_size": 32, "validation_fraction": 0.0, "updates_per_epoch": 7} | options
        return OfflineDataModule(str(path), cache_dir=str(tmp_path / "cache"), **options)

    return make_module


def on_rank(data: OfflineDataModule, rank: int, world: int) -> OfflineDataModule:
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world, overfit_batches=0.0)
    return data


def draw(data: OfflineDataModule, count: int = 40) -> TensorDictBase:
    batches = iter(data.train_dataloader())
    return torch.cat([next(batches) for _ in range(count)])


def rewards(data: OfflineDataModule) -> set[float]:
    return set(draw(data)["next", "reward"].flatten().tolist())


def test_batch_is_ted_and_rows_stay_together(make: Any, arrays: Arrays) -> None:
    loader = make().train_dataloader()
    assert len(loader) == 7
    batch = next(iter(loader))
    assert batch.batch_size == (32,)
    step = Transition.from_tensordict(batch)
    rows = step.reward.long().numpy()
    np.testing.assert_array_equal(step.observation.numpy(), arrays["observations"][rows])
    np.testing.assert_array_equal(step.action.numpy(), arrays["actions"][rows])
    np.testing.assert_array_equal(step.next_observation[:, 0].numpy(), arrays["observations"][rows, 0] + 1)
    np.testing.assert_array_equal(step.terminated.numpy(), rows == 6)
    np.testing.assert_array_equal(step.truncated.numpy(), (rows == 3) | (rows == 11))
    assert step.initial_observation is None
    assert step.observation.is_contiguous()
    assert batch.device == torch.device("cpu")


def test_every_row_is_drawn_equally_often(make: Any) -> None:
    drawn = draw(make(batch_size=1200), 10)["next", "reward"].flatten().long()
    counts = torch.bincount(drawn, minlength=12)
    assert (counts > 880).all()  # 1000 each; 4 standard deviations are 121
    assert (counts < 1120).all()


def test_minibatches_and_initial_observations(make: Any, arrays: Arrays) -> None:
    batch = next(iter(make(minibatches=3, initial_observations=True).train_dataloader()))
    assert batch.batch_size == (96,)
    assert batch["initial_observation"].shape == (96, 3)
    assert set(batch["initial_observation"][:, 0].tolist()) == {0.0, 100.0, 200.0}


def test_reward_scale_and_shift_leave_reported_returns(make: Any) -> None:
    data = make(reward_scale=2.0, reward_shift=-1.0)
    assert rewards(data) == {2.0 * r - 1.0 for r in range(12)}
    assert data.info.episode_returns.tolist() == [6.0, 15.0, 45.0]


@pytest.mark.parametrize("storage", ["memory", "memmap"])
def test_shuffled_rewards_are_a_fixed_permutation(make: Any, arrays: Arrays, storage: str) -> None:
    data = make(shuffle_rewards=True, storage=storage)
    drawn = draw(data)
    table = {float(o): float(r) for o, r in zip(drawn["observation"][:, 0], drawn["next", "reward"], strict=True)}
    truth = dict(zip(arrays["observations"][:, 0].tolist(), arrays["rewards"].tolist(), strict=True))
    assert sorted(table.values()) == sorted(truth.values())  # each reward once: one permutation, the same for all draws
    assert table != truth
    assert data.info.episode_returns.tolist() == [6.0, 15.0, 45.0]


def test_memory_and_memmap_give_the_same_batches(make: Any) -> None:
    options = {"validation_fraction": 0.34, "initial_observations": True}
    assert (
        draw(make(storage="memory", **options)).exclude("index")
        == draw(make(storage="memmap", **options)).exclude("index")
    ).all()


def test_validation_holds_out_whole_episodes(make: Any) -> None:
    data = make(validation_fraction=0.34, validation_batches=5)
    held_out = data.val_dataloader()
    first = torch.cat([batch for batch, _ in zip(held_out, range(5), strict=False)])
    again = torch.cat([batch for batch, _ in zip(held_out, range(5), strict=False)])
    assert len(held_out) == 5
    assert (first == again).all()  # the same batches every time
    episodes = {int(x) // 100 for x in first["observation"][:, 0]}
    training = {int(x) // 100 for x in draw(data)["observation"][:, 0]}
    assert len(episodes) == 1
    assert episodes | training == {0, 1, 2}
    assert not episodes & training
    assert make().val_dataloader() == []
    splits = set()
    for seed in range(8):
        batch = next(iter(make(validation_fraction=0.34, validation_batches=1, seed=seed).val_dataloader()))
        splits |= {int(x) // 100 for x in batch["observation"][:, 0]}
    assert len(splits) > 1


def test_normalisation_statistics_are_those_of_the_training_rows(make: Any, arrays: Arrays) -> None:
    data = make(normalize_observation=True, validation_fraction=0.34)
    seen = draw(data)["observation"].unique(dim=0)
    np.testing.assert_allclose(data.spaces.observation_mean, seen.mean(0), rtol=1e-5)
    np.testing.assert_allclose(data.spaces.observation_std, seen.std(0, correction=0), rtol=1e-4)
    assert make().spaces.observation_mean is None


def test_constant_features_are_not_blown_up(tmp_path: Path, arrays: Arrays) -> None:
    arrays["observations"][:, 1] = arrays["final_observations"][:, 1] = 3.0
    path = write_hdf5(tmp_path / "c.h5", arrays)
    spaces = OfflineDataModule(str(path), cache_dir=str(tmp_path / "c"), normalize_observation=True).spaces
    assert (spaces.observation_mean[1], spaces.observation_std[1]) == (3.0, 1.0)


def test_bytes_are_not_normalised_and_the_refusal_says_what_to_set(tmp_path: Path, arrays: Arrays) -> None:
    rows, episodes = len(arrays["rewards"]), len(arrays["final_observations"])
    pictures = {"observations": np.zeros((rows, 4, 4, 3), np.uint8)}
    pictures |= {"final_observations": np.zeros((episodes, 4, 4, 3), np.uint8)}
    path = str(write_hdf5(tmp_path / "pictures.h5", arrays | pictures))
    with pytest.raises(ValueError, match=r"data\.normalize_observation .* set it to false; bytes are scaled"):
        OfflineDataModule(path, normalize_observation=True, cache_dir=str(tmp_path)).setup("fit")
    OfflineDataModule(path, normalize_observation=False, cache_dir=str(tmp_path)).setup("fit")


def test_same_seed_same_batches(make: Any) -> None:
    assert (draw(make(seed=3)) == draw(make(seed=3))).all()
    assert not (draw(make(seed=3)) == draw(make(seed=4)))["next", "reward"].all()
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    draw(make())
    assert torch.equal(before, torch.random.get_rng_state())  # sampling leaves torch's own generator alone


def test_sampling_resumes_exactly(make: Any) -> None:
    data = make(initial_observations=True)
    draw(data, 5)
    file = io.BytesIO()
    torch.save(data.rank_state(), file)
    expected = draw(data, 5)
    file.seek(0)
    fresh = make(initial_observations=True)
    fresh.load_rank_state(torch.load(file, weights_only=True))
    assert (draw(fresh, 5) == expected).all()


class Counter(LightningModule):
    """Trains nothing; remembers the rewards that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.seen: list[torch.Tensor] = []
        self.validated = 0

    def training_step(self, batch: TensorDictBase, index: int) -> None:
        self.seen.append(batch["next", "reward"])

    def validation_step(self, batch: TensorDictBase, index: int) -> None:
        self.validated += 1

    def configure_optimizers(self) -> None:
        return None


def test_lightning_draws_what_it_trains_on_and_nothing_ahead(make: Any, tmp_path: Path) -> None:
    options = {"validation_fraction": 0.34, "validation_batches": 2}
    data, module = make(**options), Counter()
    trainer = Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, data)
    alone = make(**options)
    assert torch.equal(torch.cat(module.seen), draw(alone, 21)["next", "reward"])
    assert torch.equal(data.rank_state()["sampler"]["rows"], alone.rank_state()["sampler"]["rows"])
    assert module.validated == 6


def test_arguments_from_the_command_line(tmp_path: Path, arrays: Arrays) -> None:
    path = write_hdf5(tmp_path / "a.h5", arrays)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(OfflineDataModule, "data")
    space = {"class_path": "gymnasium.spaces.Box", "init_args": {"low": -2.0, "high": 2.0, "shape": [2]}}
    arguments = [
        "--data.source",
        str(path),
        "--data.cache_dir",
        str(tmp_path),
        "--data.action_space",
        json.dumps(space),
    ]
    data = parser.instantiate_classes(parser.parse_args(arguments)).data
    assert data.spaces.action.high.tolist() == [2.0, 2.0]


def test_prefetch_warns_and_delivers(make: Any) -> None:
    with pytest.warns(UserWarning, match="not exact"):
        data = make(prefetch=2)
    assert rewards(data) == set(range(12))


def test_batch_on_its_device_is_not_copied(make: Any) -> None:
    data = make()
    batch = next(iter(data.train_dataloader()))
    assert data.transfer_batch_to_device(batch, torch.device("cpu"), 0) is batch
    assert data.transfer_batch_to_device(batch, torch.device("meta"), 0).device == torch.device("meta")


@pytest.mark.parametrize("name", ["cudaa", "cuda:99"])
def test_a_device_that_is_not_there_is_named(make: Any, name: str) -> None:
    with pytest.raises(ValueError, match=f"storage_device: .*{name}"):
        make(storage_device=name)


def test_its_text_converts_nothing(make: Any, tmp_path: Path) -> None:
    assert "tiny.h5" in str(make())
    assert not (tmp_path / "cache").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_storage_on_cuda(make: Any) -> None:
    data = make(storage_device="cuda", initial_observations=True)
    batch = next(iter(data.train_dataloader()))
    assert batch["observation"].is_cuda
    assert batch["initial_observation"].is_cuda
    assert data.transfer_batch_to_device(batch, torch.device("cuda", 0), 0) is batch
    state = data.rank_state()
    expected = draw(data, 3)
    fresh = make(storage_device="cuda", initial_observations=True)
    fresh.load_rank_state(state)
    assert (draw(fresh, 3) == expected).all()


def test_gather_equals_indexing() -> None:
    index = torch.tensor([3, 0, 3])
    for values in (
        torch.randn(4, 5),
        torch.randint(0, 256, (4, 2, 4), dtype=torch.uint8),
        torch.randint(0, 256, (4, 3), dtype=torch.uint8),
        torch.arange(4),
    ):
        assert torch.equal(gather(values, index), values[index])


@pytest.mark.parametrize("storage", ["memory", "memmap"])
def test_rows_are_drawn_by_the_returns_of_their_episodes(make: Any, storage: str) -> None:
    """Returns of 6, 15 and 45 of episodes of 4, 3 and 5 rows, whose rewards are their numbers."""
    data = make(return_weighting=0.5, storage=storage, batch_size=500)
    rows = draw(data)["next", "reward"].flatten().long()
    weights = [math.exp((value - 45.0) / 39.0 / 0.5) for value in (6.0, 15.0, 45.0)]
    expected = torch.tensor([w for w, length in zip(weights, (4, 3, 5), strict=True) for _ in range(length)])
    torch.testing.assert_close(torch.bincount(rows) / len(rows), expected / expected.sum(), atol=0.01, rtol=0.0)
    assert sorted(data.training_returns.tolist()) == [6.0, 15.0, 45.0]  # as recorded, however they are drawn


def test_each_rank_draws_by_the_returns_of_all_training_episodes(make: Any) -> None:
    """The best one is drawn alone, and weights resume."""
    for rank in (0, 1):
        assert rewards(on_rank(make(return_weighting=0.01), rank, 2)) == {7.0, 8.0, 9.0, 10.0, 11.0}
    data, other = make(return_weighting=0.5), make(return_weighting=0.5)
    draw(data, 3)
    other.load_rank_state(data.rank_state())
    assert (draw(data) == draw(other)).all()


def test_held_out_rows_are_weighted_too(make: Any) -> None:
    """Of the two that are held out, one of which is the best of all three, or the better one."""
    data = make(return_weighting=0.01, validation_fraction=0.67)
    assert len(data.training_returns) == 1  # with nothing to compare, all are alike
    rows = torch.cat([next(iter(data.val_dataloader()))["next", "reward"] for _ in range(3)])
    assert len(rows.unique()) > 5
    assert rewards(data) == rewards(make(validation_fraction=0.67))


def test_weighting_is_refused_beside_what_else_chooses_rows(make: Any) -> None:
    with pytest.raises(ValueError, match="sampler and return_weighting both choose"):
        make(return_weighting=0.1, sampler=SamplerWithoutReplacement)
    with pytest.raises(ValueError, match="return_weighting"):
        make(return_weighting=0.0)
