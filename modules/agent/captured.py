"""An update as CUDA graphs: what the host would start anew at each call is recorded once, and replayed by the GPU.

A small network leaves a GPU waiting for the host, which starts hundreds of kernels for an update; a graph starts them
all at once (https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs/).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from tensordict.nn import CudaGraphModule
from torch import Tensor

from modules.torch_private import leaves_of

MOST_GRAPHS = 16
"""Graphs that are kept, each with the memory of its update. Of more, the oldest is recorded anew when it is needed."""


class CapturedUpdate:
    """An update that is recorded as a CUDA graph for each branch that it takes, and replayed after that.

    The numbers are those of the update itself: a replay starts the same kernels on the same memory. Tensors that the
    update reads besides its arguments must stay where they are, and those that it changes must be changed in place.

    Args:
        update: tensors in any nesting in and out, with no branch on a tensor's value and nothing read back from one;
            what it draws comes with its arguments.
        branch: everything but tensors on which the update depends, such as the phase of training and learning rates:
            numbers that the host puts into a kernel are a part of the recording.
    """

    def __init__(self, update: Callable[..., Any], branch: Callable[[], Hashable]) -> None:
        self.update = update
        self.branch = branch
        self.graphs: dict[Hashable, CudaGraphModule] = {}

    def __call__(self, *arguments: Any) -> Any:
        """One update, whose results are its caller's own; the first of a branch is executed as it is."""
        sizes = ((x.shape, x.dtype) if isinstance(x, Tensor) else x for x in leaves_of(arguments))
        key = (self.branch(), *sizes)
        if key not in self.graphs:
            if len(self.graphs) == MOST_GRAPHS:
                del self.graphs[next(iter(self.graphs))]
            self.graphs[key] = CudaGraphModule(self.update)
        return self.graphs[key](*arguments)
