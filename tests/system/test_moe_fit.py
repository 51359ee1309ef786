"""Regression with a mixture through the command line: table and checkpoints, and two processes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from fit_command import load, recorded_fit

import reverie
from datamodules.synthetic import CompositionalTask
from modules.agent.agent import Agent
from modules.algorithms.moe_regression import MoERegression
from modules.batch import Example
from modules.experts.layer import SparseMoE, sparse_layers
from modules.experts.residual_stack import ResidualStack
from modules.networks.blocks import MLP

EXPERTS = "--model.network.init_args.experts.init_args."
UPDATES = 20
SMALL = (
    "--config", "moe/compositional", "--data.batch_size", "64", "--data.validation_size", "256",
    "--data.updates_per_epoch", str(UPDATES), "--trainer.max_epochs", "1", "--trainer.logger", "false",
    f"{EXPERTS}num_experts", "8", f"{EXPERTS}hidden", "16",
)  # fmt: skip


def test_a_fit_ends_with_its_losses_and_keeps_the_best_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    reverie.main(["fit", *SMALL])
    printed = capsys.readouterr()
    assert "reverie: warning" not in printed.err
    assert "MoERegression on CompositionalTask" in printed.out
    for name in ("relative_error/seen", "relative_error/held_out", "load_cv2/blocks.2", "unused_experts/blocks.2"):
        assert f"validation/{name}" in printed.out
    (best,) = (tmp_path / "runs/moe-compositional").glob("*/checkpoints/best.ckpt")
    agent = Agent.from_checkpoint(best)
    assert isinstance(agent, MoERegression)
    assert {path: layer.num_experts for path, layer in sparse_layers(agent).items()} == {"network.blocks.2": 8}


@pytest.mark.long
def test_two_processes_equal_each_other_and_one_on_the_joined_batches(tmp_path: Path) -> None:
    """Without balancing losses, which even out each process's own rows, and without noise."""
    weights = {"load_balance": 0.0, "router_z": 0.0}
    done = recorded_fit(
        tmp_path, "ranks", *SMALL,
        f"{EXPERTS}routing", "top_k", f"{EXPERTS}loss_weights", json.dumps(weights), "--model.schedule", "constant",
        "--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ranks = [load(tmp_path / f"ranks/rank{r}.pt") for r in range(2)]
    parameters = [{k: v for k, v in rank["state"].items() if "_extra_state" not in k} for rank in ranks]
    torch.testing.assert_close(parameters[0], parameters[1], rtol=0, atol=1e-6)
    seen = [{tuple(row) for batch in rank["batches"] for row in batch["input"].tolist()} for rank in ranks]
    assert len(seen[0]) == len(seen[1]) == UPDATES * 64
    assert not seen[0] & seen[1]

    torch.manual_seed(0)  # as the command line does before it makes the network
    experts = partial(SparseMoE, num_experts=8, hidden=16, routing="top_k", loss_weights=weights)
    network = partial(ResidualStack, dense=partial(MLP, hidden=128), experts=experts, depth=3, placement="last")
    agent = MoERegression(network, CompositionalTask().spaces, schedule="constant").train()
    for first, second in zip(*(rank["batches"] for rank in ranks), strict=True):
        agent.update(Example(**{name: torch.cat([first[name], second[name]]) for name in first}))
        agent.advance()
    joined = {name: value for name, value in agent.state_dict().items() if name in parameters[0]}
    torch.testing.assert_close(parameters[0], joined, rtol=0, atol=2e-5)
