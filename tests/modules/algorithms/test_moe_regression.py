"""Regression with mixtures: one update by hand, its schedule, what an evaluation says, and what a checkpoint holds."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from tensordict import TensorDict
from torch import nn

from callbacks.checkpointing import ExactResume
from datamodules.synthetic import MixtureTask
from modules.agent.agent import Agent
from modules.agent.checkpoint_file import read_checkpoint
from modules.algorithms.moe_regression import MoERegression
from modules.batch import Example, Spaces
from modules.experts.layer import SparseMoE
from modules.experts.residual_stack import ResidualStack
from modules.functional.schedules import one_cycle
from modules.networks.auxiliary_losses import collecting
from modules.networks.updates import noise_set, noisy_layers

MIXTURE = partial(SparseMoE, num_experts=4, k=2, hidden=6, routing="top_k")
STACK = partial(ResidualStack, width=8, depth=2, experts=MIXTURE)
PATHS = ("blocks.0", "blocks.1")


@pytest.fixture
def data() -> MixtureTask:
    return MixtureTask(tasks=4, features=3, batch_size=32, updates_per_epoch=10, validation_size=128)


def first(loader: Any) -> TensorDict:
    (batch,) = itertools.islice(loader, 1)
    return batch


def fit(
    folder: Path,
    agent: MoERegression,
    data: MixtureTask,
    epochs: int = 1,
    callbacks: Sequence[Callback] = (),
    ckpt_path: Path | None = None,
) -> Trainer:
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=folder,
        callbacks=list(callbacks),
    )  # fmt: skip
    trainer.fit(agent, datamodule=data, ckpt_path=ckpt_path)
    return trainer


def test_an_update_is_an_adam_step_on_the_error_and_the_weighted_balancing_losses(data: MixtureTask) -> None:
    torch.manual_seed(0)
    agent = MoERegression(STACK, data.spaces, lr=0.01)
    network = copy.deepcopy(agent.network)
    adam = torch.optim.Adam(network.parameters(), lr=0.01)
    for count, batch in enumerate(itertools.islice(data.train_dataloader(), 3)):
        metrics = agent.update(Example.from_tensordict(batch) if count == 2 else batch).metrics
        with collecting(network) as auxiliary:
            error = (network(batch["input"]) - batch["target"]).square().mean()
        losses, weights = auxiliary.losses, auxiliary.weights
        assert {name for name in losses} == {f"{p}/{n}" for p in PATHS for n in ("load_balance", "router_z")}
        assert set(weights.values()) == {0.01, 0.001}
        adam.zero_grad()
        (error + sum(weights[name] * losses[name] for name in losses)).backward()
        adam.step()
        torch.testing.assert_close(metrics, {"error": error.detach(), **{k: v.detach() for k, v in losses.items()}})
        assert not any(value.requires_grad for value in metrics.values())
    for mine, theirs in zip(agent.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_the_learning_rate_follows_one_cycle_over_the_run(tmp_path: Path, data: MixtureTask) -> None:
    agent = MoERegression(STACK, data.spaces, lr=0.01)
    seen = []
    agent.on_train_batch_start = lambda batch, index: seen.append(agent.optimizer.param_groups[0]["lr"])  # type: ignore[method-assign]
    fit(tmp_path, agent, data, epochs=2)
    assert seen == pytest.approx([0.01 * one_cycle(update / 20) for update in range(20)])
    constant = MoERegression(STACK, data.spaces, lr=0.01, schedule="constant")
    fit(tmp_path, constant, data)
    assert constant.optimizer.param_groups[0]["lr"] == 0.01


def test_a_run_without_end_has_no_one_cycle(tmp_path: Path, data: MixtureTask) -> None:
    with pytest.raises(ValueError, match=r"one_cycle needs an end; set trainer.max_epochs"):
        fit(tmp_path, MoERegression(STACK, data.spaces), data, epochs=-1)


def test_relative_error_is_that_of_the_best_constant_at_1(data: MixtureTask) -> None:
    agent = MoERegression(STACK, data.spaces)
    batch = first(data.val_dataloader())
    agent.network = nn.Linear(6, 3)
    nn.init.zeros_(agent.network.weight)
    agent.network.bias.data = batch["seen", "target"].mean(0)
    half = batch["seen"].clone()
    half["target"] = batch["seen", "target"].mean(0) + 0.5 * (batch["seen", "target"] - batch["seen", "target"].mean(0))
    groups = TensorDict({"seen": batch["seen"], "held_out": half}, [128])
    metrics = agent.evaluate_losses(groups)
    assert metrics == {"relative_error/seen": pytest.approx(1.0), "relative_error/held_out": pytest.approx(1.0)}


def test_loads_are_those_of_the_evaluation_alone(data: MixtureTask) -> None:
    agent = MoERegression(STACK, data.spaces)
    agent.update(first(data.train_dataloader()))
    for block in agent.network.blocks:  # everything goes to experts 0 and 1
        block.router.gate = lambda x: torch.tensor([2.0, 1.0, 0.0, -1.0]).expand(len(x), 4)
    counted = [block.expert_counts.clone() for block in agent.network.blocks]
    metrics = agent.evaluate_losses(first(data.val_dataloader()))
    for path in PATHS:
        assert metrics[f"unused_experts/{path}"] == 2
        assert metrics[f"load_max_over_mean/{path}"] == 2.0
        assert metrics[f"load_cv2/{path}"] == pytest.approx(1.0)
    for block, before in zip(agent.network.blocks, counted, strict=True):
        assert (block.expert_counts - before).tolist() == [128, 128, 0, 0]


def test_a_network_that_is_a_mixture_itself_has_metrics_without_a_path(data: MixtureTask) -> None:
    agent = MoERegression(MIXTURE, data.spaces)
    metrics = agent.evaluate_losses(first(data.val_dataloader()))
    loads = {"load_cv2", "load_max_over_mean", "unused_experts"}
    assert metrics.keys() == loads | {"relative_error/seen"}


def test_predictions_draw_no_noise_and_policies_are_copies(data: MixtureTask) -> None:
    torch.manual_seed(0)
    agent = MoERegression(partial(ResidualStack, width=8, experts=partial(SparseMoE, num_experts=4)), data.spaces)
    rows = Example.from_tensordict(first(data.train_dataloader()))
    with torch.no_grad():
        once, twice = (agent.act(rows.input, explore=True)[0] for _ in range(2))
        assert torch.equal(once, twice)
        assert torch.equal(agent.policy()(rows.input), once)
        with noise_set(noisy_layers(agent).values(), True):
            assert not torch.equal(agent.act(rows.input, explore=True)[0], once)
    agent.policy().output.weight.data.zero_()
    assert agent.network.output.weight.abs().sum() > 0


def test_a_checkpoint_brings_back_the_predictor(tmp_path: Path, data: MixtureTask) -> None:
    agent = MoERegression(STACK, data.spaces, lr=0.01)
    fit(tmp_path, agent, data).save_checkpoint(tmp_path / "x.ckpt")
    x = first(data.val_dataloader())["seen", "input"]
    loaded = Agent.from_checkpoint(tmp_path / "x.ckpt")
    assert isinstance(loaded, MoERegression)
    torch.testing.assert_close(loaded.act(x, explore=False)[0], agent.eval().act(x, explore=False)[0], rtol=0, atol=0)
    saved = read_checkpoint(tmp_path / "x.ckpt")["hyper_parameters"]["network"]
    assert saved["init_args"]["experts"]["class_path"] == "modules.experts.layer.SparseMoE"


class SaveAfterFirstEpoch(Callback):
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "half.ckpt")


def test_a_run_continues_bit_for_bit(tmp_path: Path) -> None:
    """With routing noise, in the middle of the schedule."""
    noisy = partial(ResidualStack, width=8, experts=partial(SparseMoE, num_experts=4, hidden=6))
    settings = {"tasks": 4, "features": 3, "batch_size": 32, "updates_per_epoch": 10, "validation_size": 128}
    data, again = MixtureTask(**settings), MixtureTask(**settings)
    whole = MoERegression(noisy, data.spaces)
    fit(tmp_path, whole, data, 2, [ExactResume(), SaveAfterFirstEpoch()])
    torch.manual_seed(123)
    resumed = MoERegression(noisy, again.spaces)
    fit(tmp_path, resumed, again, 2, [ExactResume()], tmp_path / "half.ckpt")
    assert whole.updates == resumed.updates == 20
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)
    states = [agent.optimizer.state_dict() for agent in (whole, resumed)]
    assert states[0]["param_groups"] == states[1]["param_groups"]
    torch.testing.assert_close(states[0]["state"], states[1]["state"], rtol=0, atol=0)
    assert torch.equal(first(data.train_dataloader())["input"], first(again.train_dataloader())["input"])


def test_what_cannot_be_regressed_is_refused() -> None:
    box, digit = gym.spaces.Box(-1, 1, (2,)), gym.spaces.Discrete(3)
    with pytest.raises(ValueError, match="targets in a flat Box, got Discrete"):
        MoERegression(STACK, Spaces(box, digit))
    with pytest.raises(ValueError, match="inputs in a flat Box, got Box"):
        MoERegression(STACK, Spaces(gym.spaces.Box(0, 1, (2, 2)), box))
    with pytest.raises(ValueError, match="lr must lie in"):
        MoERegression(STACK, Spaces(box, box), lr=0.0)
