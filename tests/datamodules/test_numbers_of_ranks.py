"""Any number of ranks draws the rows of one, and goes on with them where another number was."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from equal import assert_equal
from tensordict import TensorDictBase
from tiny_dataset import Arrays, write_hdf5
from torchrl.data import SamplerWithoutReplacement

from datamodules.offline import OfflineDataModule


@pytest.fixture
def make(tmp_path: Path, arrays: Arrays) -> Any:
    path = write_hdf5(tmp_path / "tiny.h5", arrays)

    def make_module(rank: int, world: int, **options: Any) -> OfflineDataModule:
        data = OfflineDataModule(str(path), cache_dir=str(tmp_path / "cache"), validation_fraction=0.0, **options)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world, overfit_batches=0.0)
        return data

    return make_module


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_weighting": 0.5},
        {"sampler": SamplerWithoutReplacement},  # of 12 rows, in batches of 8
        {"initial_observations": True, "minibatches": 2},
    ],
)
def test_another_number_of_ranks_goes_on_with_the_rows_of_one(make: Any, options: dict[str, Any]) -> None:
    def ranks(world: int, state: Any) -> list[OfflineDataModule]:
        made = [make(rank, world, batch_size=8 // world, **options) for rank in range(world)]
        for data in made if state is not None else ():
            data.load_rank_state(state)
        return made

    def drawn(made: list[OfflineDataModule]) -> torch.Tensor:
        """Three batches of all ranks side by side, as one process has them."""
        batches = [[rows_of(next(iter(data.train_dataloader()))) for _ in range(3)] for data in made]
        return torch.cat([torch.stack(batch) for batch in batches], 2)

    def rows_of(batch: TensorDictBase) -> torch.Tensor:
        columns = [batch["next", "reward"], batch["observation"]]
        columns += [batch["initial_observation"]] if "initial_observations" in options else []
        return torch.cat(columns, 1).unflatten(0, (options.get("minibatches", 1), -1))

    alone = ranks(1, None)
    expected = [drawn(alone) for _ in range(3)]
    state = None
    for world, rows in zip((1, 2, 1), expected, strict=True):
        made = ranks(world, state)
        assert torch.equal(drawn(made), rows)
        states = [data.rank_state() for data in made]
        assert_equal(states[0], states[-1], "states")
        state = states[-1]


def test_more_ranks_than_rows(make: Any) -> None:
    seen: set[float] = set()
    for rank in range(13):
        batches = iter(make(rank, 13, batch_size=1).train_dataloader())
        seen |= {float(next(batches)["next", "reward"]) for _ in range(40)}
    assert seen == set(range(12))
