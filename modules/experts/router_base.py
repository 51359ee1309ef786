"""The base of every router of a mixture of experts; the kinds of routers are in `modules.experts.routers`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from modules.experts.routing import Rows
from modules.networks.resizing import keep_entries


class Routing(NamedTuple):
    """The decision of a router about `N` tokens.

    Attributes:
        rows: pairs of a token and the expert that computes it.
        logits: `[N, E]` without noise.
        losses: unweighted balancing losses, scalars, by name.
    """

    rows: Rows
    logits: Tensor
    losses: dict[str, Tensor]


def statistic_dtype() -> torch.dtype:
    """Dtype of what a router learns without gradients: the default one, or float32 where that is half precision."""
    return torch.promote_types(torch.get_default_dtype(), torch.float32)


class Router(nn.Module):
    """A linear gate; subclasses say what follows from its logits.

    The gate starts at zero (Shazeer et al. 2017) but for a thousandth that breaks ties: with exact zeros, everything
    would go to the first `k` experts whenever no noise is drawn.

    Args:
        d_in: width of a token.
        num_experts: `E`.
        k: experts per token.
        outputs: gate outputs per expert.

    Attributes:
        weight: `[d_in, outputs * E]`, the logits' columns first.
    """

    LOSSES: ClassVar[dict[str, float]] = {}
    """Names of the balancing losses, with their usual weights."""

    def __init__(self, d_in: int, num_experts: int, k: int, outputs: int = 1) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.k = k
        self.weight = nn.Parameter(torch.zeros(d_in, outputs * num_experts))
        nn.init.normal_(self.weight[:, :num_experts].data, std=1e-3 / math.sqrt(d_in))

    def forward(self, x: Tensor, noise: bool) -> Routing:
        """Route `[N, d_in]` tokens, with the gate's own noise or without."""
        raise NotImplementedError

    def gate(self, x: Tensor) -> Tensor:
        """`[N, d_in] -> [N, outputs * E]`, in float32 at least."""
        with torch.autocast(x.device.type, enabled=False):
            exact = torch.promote_types(x.dtype, torch.float32)
            return x.to(exact) @ self.weight.to(exact)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Router:
        """Move and cast, but for statistics, which stay in float32: steps of a bias are lost in half precision."""
        exact = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, before in exact.items():
            after = getattr(self, name)
            if after.is_floating_point() and after.element_size() < 4:
                setattr(self, name, before.to(after.device))
        return self

    def keep(self, kept: Tensor, optimizers: Iterable[Optimizer] = ()) -> None:
        """Forget all experts but these, `[E']` indices."""
        outputs = self.weight.shape[1] // self.num_experts
        columns = torch.cat([kept + i * self.num_experts for i in range(outputs)])
        keep_entries(self.weight, columns, 1, optimizers)
        self.num_experts = len(kept)
        self.k = min(self.k, self.num_experts)

    def room_for(self, number: int, state: Mapping[str, Any], prefix: str) -> Tensor:
        """Indices of this many own experts, whose places a saved router with as many can take."""
        return torch.arange(number, device=self.weight.device)
