"""A part of a planning agent that changes the sequences it learns from, so that few of them teach as much as many."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from modules.agent.action_masks import ActionMask
from modules.agent.planning import Record
from modules.batch import SequenceBatch


class Augmentation(nn.Module, ABC):
    """Changes sequences where they are learned from; searches and targets of values see them as they are.

    An argument `Callable[[ActionMask], Augmentation]` takes any subclass and any `functools.partial` of one; in YAML,
    its `class_path` and `init_args`. The mask knows all spaces. There is nothing to be learned in one, and nothing that
    a checkpoint would have to hold.
    """

    @abstractmethod
    def draw(self, count: int, device: torch.device) -> tuple[Tensor, ...]:
        """All randomness for so many sequences."""

    @abstractmethod
    def changed(
        self, rows: SequenceBatch, record: Record, draws: tuple[Tensor, ...], steps: int
    ) -> tuple[SequenceBatch, Record]:
        """Sequences as they are learned from, and policies that agree with them.

        Args:
            rows: `[L, B]` as they were played.
            record: `[steps + 1, B]` of the searches in the first of them.
            draws: of `draw`, for `B` sequences.
            steps: rows behind the first one that are learned from.

        Returns:
            The rows, whose observations may end after `steps + 1` of them; and the record.
        """


MakeAugmentation = Callable[[ActionMask], Augmentation]
