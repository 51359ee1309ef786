"""Data whose arguments stand in every checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pytorch_lightning import LightningDataModule

from modules.class_path import describe


class KeptArguments(LightningDataModule):
    """A LightningDataModule that calls `save_hyperparameters(logger=False)`: a resume compares what it was made with.

    `fixed_on_resume` names what a continued run cannot change, and why, see `modules.changed_arguments`.
    """

    fixed_on_resume: ClassVar[Mapping[str, str]] = {}

    def _set_hparams(self, hp: Any) -> None:
        # Plain values, as an agent's: a checkpoint is read without running any code.
        super()._set_hparams(describe(hp, type(self).__name__))
