"""The typed contracts between learned models of the environment and the callbacks that look into them.

As in `modules.contracts`, they are types alone, and who needs one asks for it once by `isinstance`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, Self, runtime_checkable

from torch import Tensor

from modules.batch import SequenceBatch


class Prediction(Protocol):
    """The expectation of a world model: `[T, B, ...]` observations by key, images in [0, 255], and `[T, B]` rewards."""

    @property
    def observation(self) -> dict[str, Tensor]:
        """Observations by key."""

    @property
    def reward(self) -> Tensor:
        """Rewards in the units that the model learns."""


@runtime_checkable
class Imagines(Protocol):
    """An agent with a world model that can be compared with recorded windows.

    Attributes:
        reward_transform: map from recorded rewards to those that the model learns.
    """

    reward_transform: Callable[[Tensor], Tensor]

    def open_loop(self, batch: SequenceBatch, context: int) -> Prediction:
        """Predictions for `[T, B]` windows, whose first `context` rows the model sees; it imagines the others."""


@runtime_checkable
class HasLatents(Protocol):
    """An agent whose model keeps what it has seen in latents, and leads them on along actions."""

    def latents(self, batch: SequenceBatch, steps: int) -> Tensor:
        """Latents that are seen and foreseen in `[T, B]` windows, `[steps + 1, T, B, D]`.

        Entry `[k, t]` is `k` steps ahead of row `t`: inferred from what is seen up to row `t`, then led on along the
        next `k` recorded actions, without any further look. Where these go beyond the window, or over the end of an
        episode, it means nothing.
        """

    def untrained(self) -> Self:
        """Another agent of the same class, arguments and spaces, with weights drawn anew from torch's generator."""


@runtime_checkable
class ReadsMemory(Protocol):
    """An agent that may read an external memory.

    Attributes:
        has_memory: whether it does.
    """

    has_memory: bool

    def read_weights(self, state: Any) -> Tensor:
        """Weights with which each head read the rows of the memory when this state was made, `[B, H, R]`."""
