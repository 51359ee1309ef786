"""Data that are made from a config or in Python, and never from a checkpoint."""

from __future__ import annotations

from typing import Any, Self

from pytorch_lightning import LightningDataModule


class FromConfig(LightningDataModule):
    """A LightningDataModule that no file can make: Lightning would call what the file names."""

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *others: Any, **arguments: Any) -> Self:
        """Refused.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"{cls.__name__} is made from a config or its constructor, not from {checkpoint_path}: the file could name "
            "any code as a part of it"
        )
