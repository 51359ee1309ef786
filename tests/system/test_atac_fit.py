"""Checks of a fit of ATAC before its first update."""

from __future__ import annotations

from pathlib import Path

import pytest
from atac_agents import NUMBERED
from fit_command import write_dataset
from pytorch_lightning import Trainer

from datamodules.offline import OfflineDataModule
from modules.agent.warm_start import WarmStart
from modules.algorithms.atac import ATAC


def fit(tmp_path: Path, *, initial_observations: bool, **arguments: object) -> ATAC:
    data = OfflineDataModule(
        str(write_dataset(tmp_path / "tiny.npz")),
        batch_size=16,
        updates_per_epoch=4,
        validation_fraction=0.0,
        initial_observations=initial_observations,
        cache_dir=str(tmp_path / "cache"),
    )
    agent = ATAC(data.spaces, hidden=[8], **arguments)  # type: ignore[arg-type]
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=str(tmp_path),
    )  # fmt: skip
    trainer.fit(agent, datamodule=data)
    return agent


def test_initial_state_pessimism_without_first_observations_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="initial_observations: true"):
        fit(tmp_path, initial_observations=False, pessimism="initial", warm_start=WarmStart(2))


def test_initial_state_pessimism_trains_on_first_observations(tmp_path: Path) -> None:
    agent = fit(tmp_path, initial_observations=True, pessimism="initial", warm_start=WarmStart(2))
    assert agent.updates == 4
    assert agent.phase == "training"


def test_a_run_that_is_all_warm_start_says_so(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="the whole run is warm start"):
        fit(tmp_path, initial_observations=False, warm_start=WarmStart(100))


def test_a_reference_policy_comes_from_a_checkpoint(tmp_path: Path) -> None:
    first = fit(tmp_path, initial_observations=False, warm_start=WarmStart(2))
    first.trainer.save_checkpoint(tmp_path / "first.ckpt")
    second = fit(
        tmp_path, initial_observations=False, warm_start=WarmStart(2), reference_policy=str(tmp_path / "first.ckpt")
    )
    assert second.updates == 4
    for learned, expected in zip(second.reference[0].parameters(), first.policy().parameters(), strict=True):
        assert (learned == expected).all()
    assert not any("reference" in key for key in second.state_dict())
    other = ATAC(NUMBERED, warm_start=WarmStart(2), reference_policy=str(tmp_path / "first.ckpt"))
    with pytest.raises(ValueError, match=r"first\.ckpt does not fit the data: its observation space is Box"):
        other.check_run(Trainer(logger=False, accelerator="cpu"), None)
