"""Parameters that grow or shrink along one axis, with their state in the optimisers."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer


@torch.no_grad()
def change_entries(parameter: Tensor, change: Callable[[Tensor], Tensor], optimizers: Iterable[Optimizer] = ()) -> None:
    """Change a parameter and its optimiser state alike, to another size too; it stays the same object."""
    shape, entries = parameter.shape, change(parameter.data)
    parameter.grad = None
    # While any older graph is alive, autograd would hold new gradients against the old shape: what it remembers of a
    # parameter is renewed with its dtype only.
    parameter.data = entries.new_empty(0, dtype=torch.float16 if entries.dtype != torch.float16 else torch.float32)
    parameter.data = entries
    for optimizer in optimizers:
        state = optimizer.state.get(parameter, {})
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == shape:
                state[name] = change(value)


def keep_entries(parameter: Tensor, kept: Tensor, dim: int, optimizers: Iterable[Optimizer] = ()) -> None:
    """Shrink a parameter to these entries of one axis, with its optimiser state; it stays the same object."""
    change_entries(parameter, lambda entries: entries.index_select(dim, kept), optimizers)
