"""The base of all datamodules: made from a config alone, aware of the rank, and of batches that are to be repeated."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from pytorch_lightning import LightningDataModule, Trainer
from tensordict import TensorDict

from modules.run import run_of
from modules.wall_time import timed


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

    @property
    def _rank(self) -> tuple[int, int]:
        """Rank of this process and number of all; the only one where no trainer is."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def _replay_folder(self, given: str | None) -> Path:
        """Folder of a replay's files: the given one, else one in the run's, or for this process where none is kept."""
        if given is not None:
            return Path(given)
        if self.trainer is not None and not run_of(self.trainer).fast_dev_run:
            return Path(self.trainer.default_root_dir) / "replay"
        self._temporary = tempfile.TemporaryDirectory(prefix="reverie-replay-")
        return Path(self._temporary.name)


class DrawnBatches:
    """Endless iterable of a replay's batches whose `len` is one epoch; nothing is drawn ahead."""

    def __init__(self, draw: Callable[[], TensorDict], length: int) -> None:
        self.draw = draw
        self.length = length

    def __iter__(self) -> Iterator[TensorDict]:
        while True:
            with timed("sampling"):
                batch = self.draw()
            yield batch

    def __len__(self) -> int:
        return self.length


class SameBatches:
    """Batches that are drawn once and handed out in every pass: Lightning would take a list for several loaders."""

    def __init__(self, batches: Sequence[TensorDict]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[TensorDict]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def repeated_batches(trainer: Trainer | None, length: int) -> int | None:
    """Number of batches after which the same ones come again, of an epoch of `length`; None where all are new.

    Raises:
        ValueError: a share of the epoch that is less than one batch.
    """
    wanted = 0 if trainer is None else run_of(trainer).overfit_batches
    if not wanted:
        return None
    count = min(wanted, length) if isinstance(wanted, int) else int(wanted * length)
    if count < 1:
        raise ValueError(f"trainer.overfit_batches: {wanted} of an epoch of {length} batches is less than one batch")
    return count
