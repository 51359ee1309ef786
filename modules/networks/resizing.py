"""Parameters that grow or shrink along one axis, with their state in the optimisers, and layers made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
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


class Resizable:
    """A layer whose parameters may have become smaller in training."""

    def shrink_to(self, state: Mapping[str, Any], prefix: str = "", optimizers: Iterable[Optimizer] = ()) -> None:
        """Make the layer as small as the one whose state this is, so that it can be loaded.

        Args:
            state: state of a network that has that layer under `prefix`.
            prefix: path of the layer in that network, such as `"critic.blocks.0."`.
            optimizers: optimisers whose state of the layer's parameters is cut alike.

        Raises:
            ValueError: that layer is larger than this one.
        """
        raise NotImplementedError


def shrink_layers(network: nn.Module, state: Mapping[str, Any], optimizers: Iterable[Optimizer] = ()) -> None:
    """Make all layers of a network as small as those of a saved one, see `Resizable.shrink_to`.

    Raises:
        ValueError: a saved layer is larger than the network's; it names its path.
    """
    optimizers = list(optimizers)
    for path, layer in network.named_modules():
        if isinstance(layer, Resizable):
            try:
                layer.shrink_to(state, f"{path}." if path else "", optimizers)
            except ValueError as error:
                raise ValueError(f"{path}: {error}" if path else str(error)) from error
