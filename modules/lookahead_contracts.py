"""How a model is looked ahead in, whatever it is: types alone, as in `modules.contracts`."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor


class PlansAhead(Protocol):
    """A model that is looked ahead in, by `K` opinions at once.

    Its states have rows `[R]`, with `R = K * N * C` for `C` copies of `N` observations, opinion-major. A tree goes back
    to states: they are nested tensors `[R, ...]` that stay as they are, or the model is one of `GoesBack`.
    """

    @property
    def opinions(self) -> int:
        """Number of models `K` that imagine every row."""

    def begin(self, memory: Any, copies: int) -> Any:
        """States in which `N` observations, or what `Remembers.observe` made of them, are known, each so many times."""

    def view(self, state: Any) -> Tensor:
        """Whatever policy and value see of states, `[R, ...]`."""

    def step(self, state: Any, action: Tensor) -> tuple[Any, Tensor, Tensor]:
        """The states after actions `[R, ...]`, rewards `[R]`, and chances `[R]` that the episode ended there."""


@runtime_checkable
class Remembers(Protocol):
    """A model of which not all that it knows is in one observation."""

    def initial_state(self, batch: int) -> Any:
        """Memory of `batch` fresh episodes."""

    def observe(self, observation: Any, memory: Any) -> Any:
        """The memory with observations `[N, ...]`, in which `PlansAhead.begin` begins."""

    def acted(self, memory: Any, action: Tensor) -> Any:
        """The memory with the actions `[N, ...]` that were taken."""


@runtime_checkable
class GoesBack(Protocol):
    """A model whose states are more than nested tensors, or change as it goes on from them."""

    def keep(self, state: Any) -> Any:
        """Nested tensors `[R, ...]` by which states are found again, until `PlansAhead.begin` is called anew."""

    def back(self, kept: Any) -> Any:
        """The states of rows that were kept, any `R` of them in the rows of their observation and opinion."""
