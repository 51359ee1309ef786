"""A mixture of experts learns what a dense network of the same arithmetic cannot, and balancing keeps all experts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn

from datamodules.synthetic import MixtureTask
from modules.algorithms.moe_regression import MoERegression
from modules.experts.layer import SparseMoE
from modules.experts.residual_stack import ResidualStack
from modules.networks.blocks import MLP

MIXTURE = partial(SparseMoE, num_experts=16, k=2, hidden=32)


def learn(folder: Path, network: Callable[[int, int], nn.Module]) -> dict[str, float]:
    """Validation figures after 320 updates on 16 latent tasks."""
    torch.manual_seed(0)
    data = MixtureTask(tasks=16, batch_size=256, updates_per_epoch=320, validation_size=2048)
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(MoERegression(network, data.spaces), datamodule=data)
    return {name.removeprefix("validation/"): float(value) for name, value in trainer.callback_metrics.items()}


@pytest.mark.long
def test_mixture_against_dense_and_against_no_balancing(tmp_path: Path) -> None:
    dense = learn(tmp_path, partial(ResidualStack, dense=partial(MLP, hidden=96), placement="none"))  # with the router
    mixture = learn(tmp_path, partial(ResidualStack, experts=MIXTURE))
    collapsed = learn(
        tmp_path, partial(ResidualStack, experts=partial(MIXTURE, loss_weights={"importance": 0.0, "load": 0.0}))
    )
    assert 0.1 < dense["relative_error/seen"] < 1.0
    assert mixture["relative_error/seen"] < 0.5 * dense["relative_error/seen"]
    assert mixture["unused_experts/blocks.0"] == 0
    assert mixture["load_cv2/blocks.0"] < 0.1 < collapsed["load_cv2/blocks.0"]
    assert collapsed["unused_experts/blocks.0"] > 0
