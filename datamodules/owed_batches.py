"""The training loader of data that are collected while they are learned from."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tensordict import TensorDict


class OwedBatches:
    """Endless iterable whose `len` is one epoch; drawing a batch takes the environment steps that it waits for."""

    def __init__(self, draw: Callable[[], TensorDict], length: int) -> None:
        self.draw = draw
        self.length = length

    def __iter__(self) -> Iterator[TensorDict]:
        while True:
            yield self.draw()

    def __len__(self) -> int:
        return self.length
