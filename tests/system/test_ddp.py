"""Two CPU processes through the command line: equal ranks, shared draws, and one process on the joined batches."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from fit_command import fit, load
from mlflow import MlflowClient

from datamodules.offline import OfflineDataModule
from modules.agent.warm_start import WarmStart
from modules.algorithms.atac import ATAC
from modules.batch import Spaces, Transition

UPDATES = 100


@pytest.mark.long
def test_two_processes_equal_each_other_and_one_on_the_joined_batches(tmp_path: Path) -> None:
    """The second one is a new Python: sets have an order of their own in each."""
    done = fit(
        tmp_path, "ranks", "--data.updates_per_epoch", "50", "--trainer.max_epochs", "2",
        "--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu",
        "--data.normalize_observation", "false", new_python="second",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ranks = [load(tmp_path / f"ranks/rank{r}.pt") for r in range(2)]
    for name, value in ranks[0]["state"].items():
        torch.testing.assert_close(value, ranks[1]["state"][name], rtol=0, atol=1e-6)
    assert ranks[0]["updates"] == ranks[1]["updates"] == UPDATES

    # Together they draw what one process would.
    data = OfflineDataModule(str(tmp_path / "tiny.npz"), batch_size=64, cache_dir=str(tmp_path / "one"))
    for first, second, whole in zip(*(rank["batches"] for rank in ranks), data.train_dataloader(), strict=False):
        assert torch.equal(torch.cat([first["observation"], second["observation"]]), whole["observation"])

    # One process on the joined rows, with the two ranks' own noise side by side.
    spaces = Spaces(gym.spaces.Box(-np.inf, np.inf, (3,)), gym.spaces.Box(-1.0, 1.0, (2,)))
    agent = ATAC(spaces, hidden=[16, 16], actor_lr=1e-3, warm_start=WarmStart(30))
    twins = [ATAC(spaces, hidden=[16, 16]) for _ in range(2)]
    for first, second in zip(*(rank["batches"] for rank in ranks), strict=True):
        rows = {k: torch.cat([first[k], second[k]]) for k in first}
        transition = Transition(
            rows["observation"], rows["action"], rows["next/reward"][:, 0], rows["next/observation"],
            rows["next/terminated"][:, 0], rows["next/truncated"][:, 0],
        )  # fmt: skip
        noise = [t.population.draw((3, 32, 2), t.device, rank) for rank, t in enumerate(twins)]
        agent.update(transition, torch.cat(noise, 2).transpose(0, 1))
        agent.advance()
    for name, value in agent.state_dict().items():
        torch.testing.assert_close(ranks[0]["state"][name], value, rtol=0, atol=2e-5)


@pytest.mark.long
def test_two_processes_with_mixtures_stay_equal(tmp_path: Path) -> None:
    """Routers draw other noise for other rows on each rank; weights, biases and temperatures are the same.

    Both log, and MLflow has everything once.
    """
    done = fit(
        tmp_path, "ranks", "--data.updates_per_epoch", "40", "--trainer.max_epochs", "1",
        "--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu",
        "--model.trunk", "ResidualStack", "--model.trunk.dense", "SparseMoE", "--model.trunk.placement", "last",
        "--model.trunk.depth", "2", "--model.trunk.experts", "SparseMoE",
        "--model.trunk.experts.routing", "bias_balanced", "--trainer.logger", "MLflowLogger",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiments = [e.experiment_id for e in client.search_experiments()]
    (page,) = client.search_runs(experiments)
    assert page.info.status == "FINISHED"
    points = client.get_metric_history(page.info.run_id, "throughput/updates_per_second")
    assert [point.step for point in points] == [5, 10, 15, 20, 25, 30, 35, 40]
    ranks = [load(tmp_path / f"ranks/rank{r}.pt") for r in range(2)]
    moved = 0
    for name, value in ranks[0]["state"].items():
        if name.endswith("_extra_state"):
            assert not torch.equal(value, ranks[1]["state"][name])  # each counts its own rows
        else:
            torch.testing.assert_close(value, ranks[1]["state"][name], rtol=0, atol=1e-6)
            moved += bool(name.endswith("router.bias") and value.any())
    assert moved == 5  # policy, critics, and the targets that follow them
    assert not torch.equal(ranks[0]["rng"][0], ranks[1]["rng"][0])
