"""Seeds below zero, which no generator takes, are refused by name wherever one is given."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from callbacks.evaluation.evaluation import Evaluation
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
    partial(collect, "Pendulum-v1", "pendulum/random-v0", [Part("random")], 100, "data"),
]


@pytest.mark.parametrize("make", SEEDED)
def test_a_seed_below_zero_is_refused_by_name(make: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match=r"seed must .*0.*, got -5"):
        make(seed=-5)
