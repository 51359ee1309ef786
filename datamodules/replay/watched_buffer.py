"""TorchRL's ReplayBuffer as a replay has it that keeps more than the entries: it hears of what comes by any call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torchrl.data import ReplayBuffer

BESIDE = "beside.pt"
"""File of a dump that holds what the replay keeps beside the entries."""


class Watcher(Protocol):
    """The replay around a buffer.

    Attributes:
        generator: source of its batches, whose state checkpoints hold.
    """

    generator: torch.Generator

    @property
    def most_at_once(self) -> int:
        """Entries that one call can add."""

    def written(self, index: Tensor) -> None:
        """Entries at an index were written, as the newest ones."""

    def rewritten(self, index: Tensor) -> None:
        """Entries at an index were given other contents, in their places."""

    def beside(self) -> dict[str, Any]:
        """State that belongs to the entries and is none of TorchRL's, in tensors and plain values."""

    def restored(self, beside: Mapping[str, Any] | None) -> None:
        """The buffer holds other entries: none, or those of a dump, with what was kept beside them if it is known."""


class WatchedBuffer(ReplayBuffer):
    """A ReplayBuffer whose replay learns of writes, of `empty` and of dumps; all of TorchRL's calls stay as they are.

    Args:
        watcher: the replay.
        **parts: parts and settings of a ReplayBuffer.
    """

    def __init__(self, *, watcher: Watcher, **parts: Any) -> None:
        self.watcher = watcher
        super().__init__(**parts)

    def set_rng(self, generator: torch.Generator) -> None:
        """Take over the state of a generator, such as that of a dump; draws stay with the replay's own generator."""
        self.watcher.generator.set_state(generator.get_state())
        super().set_rng(self.watcher.generator)

    def extend(self, data: Any, *, update_priority: bool | None = None) -> Tensor:
        """Add entries behind the newest ones.

        Raises:
            ValueError: they are more than the ring of entries has places.
        """
        if len(data) > self.watcher.most_at_once:
            raise ValueError(f"{len(data)} entries do not fit: add {self.watcher.most_at_once} at once or fewer")
        return super().extend(data, update_priority=update_priority)

    def mark_update(self, index: int | Tensor) -> None:
        super().mark_update(index)
        self.watcher.written(torch.as_tensor(index).cpu())

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(index, value)
        of_fields = isinstance(index, str | tuple)
        self.watcher.rewritten(torch.arange(len(self.storage))[slice(None) if of_fields else index])

    def empty(self, empty_write_count: bool = True) -> None:
        """Forget all entries.

        Raises:
            ValueError: the count of writes should stay, which says where entries lie.
        """
        if not empty_write_count:
            raise ValueError("empty_write_count: a replay finds its entries by the count of writes; leave it out")
        super().empty()
        self.watcher.restored(None)

    def dumps(self, path: str | Path) -> None:
        super().dumps(path)
        if beside := self.watcher.beside():
            torch.save(beside, Path(path) / BESIDE)

    def loads(self, path: str | Path) -> None:
        super().loads(path)
        file = Path(path) / BESIDE
        self.watcher.restored(torch.load(file, weights_only=True) if file.is_file() else None)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "beside": self.watcher.beside()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.watcher.restored(state_dict.get("beside"))
