"""Seeds that not everything takes are refused by name, with the same bounds, wherever one is given."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from command_line import mistake

from callbacks.evaluation.evaluation import Evaluation
from callbacks.world_model.report import WorldModelReport
from commands.collect import Part, collect
from datamodules.offline import OfflineDataModule
from datamodules.offline_sequences import OfflineSequenceDataModule
from datamodules.online import OnlineDataModule
from datamodules.synthetic import CompositionalTask, MixtureTask
from modules.algorithms.atac import ATAC
from modules.algorithms.dynamics_ensemble import DynamicsEnsemble

SEEDED = [
    partial(OfflineDataModule, "data.h5"),
    partial(OfflineSequenceDataModule, "data.h5"),
    partial(OnlineDataModule, "CartPole-v1"),
    MixtureTask,
    CompositionalTask,
    ATAC,
    DynamicsEnsemble,
    Evaluation,
    WorldModelReport,
    partial(collect, "Pendulum-v1", "pendulum/random-v0", [Part("random")], 100, "data"),
]


@pytest.mark.parametrize("seed", [-5, 2**31, 2**70])
@pytest.mark.parametrize("make", SEEDED)
def test_a_seed_that_not_everything_takes_is_refused_by_name(make: Callable[..., object], seed: int) -> None:
    with pytest.raises(ValueError, match=rf"^seed must lie in \[0, 2,147,483,647\], got {seed}$"):
        make(seed=seed)


@pytest.mark.parametrize("make", [WorldModelReport, ATAC, MixtureTask, Evaluation])
def test_the_largest_seed_is_taken(make: Callable[..., object]) -> None:
    make(seed=2**31 - 1)


def test_the_seed_of_a_command_line_has_the_same_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    for seed in ("-1", "2147483648"):
        said = mistake(["fit", "--config", "atac/pendulum", "--seed_everything", seed], capsys)
        assert said == f"seed_everything must lie in [0, 2,147,483,647], got {seed}"
