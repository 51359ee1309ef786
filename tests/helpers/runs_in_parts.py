"""Runs that end after some epochs and go on from the checkpoint that they left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from pytorch_lightning import LightningDataModule, LightningModule, Trainer

import reverie
from callbacks.checkpointing import ExactResume
from modules.agent.agent import Agent


def train(
    agent: LightningModule, data: LightningDataModule, folder: Path, epochs: int, checkpoint: Path | None
) -> Trainer:
    """Train up to this epoch, from a checkpoint on if there is one, and leave `<epochs>.ckpt` in the folder."""
    trainer = Trainer(
        max_epochs=epochs, logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
        default_root_dir=folder, enable_checkpointing=False, callbacks=[ExactResume()],
    )  # fmt: skip
    trainer.fit(agent, datamodule=data, ckpt_path=checkpoint)
    trainer.save_checkpoint(folder / f"{epochs}.ckpt")
    return trainer


def whole_and_resumed(fit: Sequence[str], folder: Path) -> tuple[Agent, Agent]:
    """Agents of a whole run of three epochs and of one that was cut after two and resumed, whose states are equal.

    Args:
        fit: the command and its arguments, but for the number of epochs and the folder.
        folder: folder of both runs.
    """
    for name, epochs in (("whole", "3"), ("parts", "2")):
        reverie.main([*fit, "--trainer.max_epochs", epochs, "--run_dir", str(folder / name)])
    reverie.main([*fit, "--trainer.max_epochs", "3", "--run_dir", str(folder / "parts"), "--ckpt_path", "last"])
    whole, resumed = (last_agent(folder / name) for name in ("whole", "parts"))
    state = resumed.state_dict()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, state[name]), name
    return whole, resumed


def last_agent(folder: Path) -> Agent:
    """The last agent of the one run in a folder."""
    (run,) = folder.iterdir()
    return Agent.from_checkpoint(run / "checkpoints/last.ckpt")
