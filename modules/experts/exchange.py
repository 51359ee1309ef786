"""Exchange between processes that train together: gradients, and the rows of experts that live on other ranks.

Letters as in `modules.experts.routing`; `P` ranks hold the experts of one mixture together, each `E / P` of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from modules.experts.products import check_finite
from modules.experts.routing import Rows, sort_by_expert


class Place(NamedTuple):
    """A rank's part in a mixture whose experts are spread.

    Attributes:
        group: the ranks that hold one set of experts together, in the experts' order.
        replicas: the ranks that hold the same experts.
    """

    group: ProcessGroup
    replicas: ProcessGroup


class _Exchange(torch.autograd.Function):
    """`all_to_all_single` of rows; its gradient takes the way back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sends: list[int], receives: list[int], group: ProcessGroup) -> Tensor:
        ctx.back = (receives, sends, group)
        received = rows.new_empty(sum(receives), *rows.shape[1:])
        dist.all_to_all_single(received, rows.contiguous(), receives, sends, group=group)
        return received

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return exchange(grads[0], *ctx.back), None, None, None


def exchange(rows: Tensor, sends: list[int], receives: list[int], group: ProcessGroup) -> Tensor:
    """Give every rank of a group its part of the rows, and get the own part of theirs; differentiable.

    Args:
        rows: `[sum(sends), ...]`, those for the first rank of the group first.
        sends: rows for each rank.
        receives: rows from each rank.
        group: calls this on all of its ranks, also without rows.

    Returns:
        `[sum(receives), ...]`, those from the first rank of the group first.
    """
    received: Tensor = _Exchange.apply(rows, sends, receives, group)
    return received


@torch.compiler.disable(reason="rows that travel between ranks cannot be compiled: set compile to false")
def compute_over_ranks(
    compute: Callable[[Tensor, Rows], Tensor], tokens: Tensor, rows: Rows, num_experts: int, group: ProcessGroup
) -> Tensor:
    """Weighted sum of the experts' outputs for each token, where the experts are spread over the ranks of a group.

    Rows travel to the ranks of their experts and the outputs travel back (Lepikhin et al. 2020, GShard,
    https://arxiv.org/abs/2006.16668): two exchanges, and two in the backward. Nothing is dropped. The numbers of rows
    are exchanged first and read back once.

    Args:
        compute: function of `[R, d_in]` tokens with one row each, on the own experts: `[R, d_out]`.
        tokens: `[N, d_in]` of this rank; `N` may differ between ranks and be 0.
        rows: pairs of a token and the expert that computes it, of all experts.
        num_experts: `E`; the first rank of the group has the first `E / P` experts.
        group: calls this on all of its ranks.

    Returns:
        `[N, d_out]` in the dtype that `compute` returns.

    Raises:
        ValueError: a weight is not finite; on a CPU only.
    """
    if tokens.device.type == "cpu":
        check_finite(rows.weight, rows.token)
    ranks = dist.get_world_size(group)
    order, starts = sort_by_expert(rows.expert, num_experts)
    here = starts.diff()  # [E] rows of the own tokens
    there = torch.empty_like(here)  # [P * E / P] rows from each rank for each own expert
    dist.all_to_all_single(there, here, group=group)
    sends, receives = torch.stack([here, there]).view(2, ranks, -1).sum(2).tolist()
    # Dropped rows are the last in the order, and stay at home.
    travelling = order[: sum(sends)]
    token = rows.token[travelling]
    queue = exchange(tokens.index_select(0, token), sends, receives, group)

    # What has come is sorted by rank, and by expert within each rank: its experts are known without being sent.
    place = torch.arange(len(queue), device=queue.device)
    own = torch.arange(num_experts // ranks, device=queue.device).repeat(ranks)
    expert = own.repeat_interleave(there, output_size=len(queue))
    y = compute(queue, Rows(place, expert, queue.new_ones(len(queue)), place))

    # Weighted at home, so that the router's gradient needs no way of its own.
    y = exchange(y, receives, sends, group) * rows.weight[travelling].unsqueeze(1).to(y.dtype)
    return y.new_zeros(len(tokens), y.shape[1]).index_add(0, token, y)
