"""Runs that end after some epochs and go on from the checkpoint that they left."""

from __future__ import annotations

from pathlib import Path

from pytorch_lightning import LightningDataModule, LightningModule, Trainer

from callbacks.checkpointing import ExactResume


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
