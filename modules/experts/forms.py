"""The experts' two-layer networks in plain tensor operations, on any device; arguments as of `expert_mlp`.

Letters as in `modules.experts.routing`; `H` is the hidden width of one expert, `F` the width of the first product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from modules.experts.routing import Rows, sort_by_expert
from modules.functional.elementwise import Activation, activate


def dense(x: Tensor, rows: Rows, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, activation: Activation) -> Tensor:
    """Every expert on every token, then one weight for each pair: the reference, and the form for exports."""
    hidden = activate(torch.einsum("nd,edf->enf", x, w1) + b1.unsqueeze(1), activation)
    y = torch.einsum("enh,eho->eno", hidden, w2) + b2.unsqueeze(1)
    weights = x.new_zeros(x.shape[0], len(w1) + 1).index_put((rows.token, rows.expert), rows.weight, accumulate=True)
    return torch.einsum("eno,ne->no", y, weights[:, : len(w1)])


def padded(x: Tensor, rows: Rows, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, activation: Activation) -> Tensor:
    """Every expert padded to the longest queue and one batched product per layer."""
    order, starts = sort_by_expert(rows.expert, len(w1))
    longest = int(starts.diff().max())
    order = order[: int(starts[-1])]
    token, expert = rows.token[order], rows.expert[order]
    place = torch.arange(order.shape[0], device=x.device) - starts[expert]
    queues = x.new_zeros(len(w1), longest, x.shape[1]).index_put((expert, place), x.index_select(0, token))
    hidden = activate(torch.baddbmm(b1.unsqueeze(1), queues, w1), activation)
    y = torch.baddbmm(b2.unsqueeze(1), hidden, w2)[expert, place] * rows.weight[order].unsqueeze(1)
    return x.new_zeros(x.shape[0], w2.shape[2]).index_add(0, token, y)


def grouped(x: Tensor, rows: Rows, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, activation: Activation) -> Tensor:
    """Rows sorted by expert and one grouped product per layer; sizes stay on the device."""
    order, starts = sort_by_expert(rows.expert, len(w1))
    ends = starts[1:].to(torch.int32)
    expert = rows.expert[order].clamp(max=len(w1) - 1)
    # Behind the last group neither a product nor its gradient is initialised: both must be cut off.
    kept = None if rows.complete else (torch.arange(order.shape[0], device=x.device) < starts[-1]).unsqueeze(1)

    def product(rows_in: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rows_in = rows_in if kept is None else rows_in.where(kept, 0.0)
        out = AddBias.apply(F.grouped_mm(rows_in, weight, offs=ends), bias, expert, ends)
        return out if kept is None else out.where(kept, 0.0)

    inverse = torch.empty_like(order).scatter_(0, order, torch.arange(order.shape[0], device=order.device))
    k = rows.per_token
    visits = x.index_select(0, rows.token) if k is None else x.unsqueeze(1).expand(-1, k, -1).flatten(0, 1)
    y = product(activate(product(Permute.apply(visits, order, inverse), w1, b1), activation), w2, b2)
    y = Permute.apply(y, inverse, order) * rows.weight.unsqueeze(1)
    if k is not None:
        return y.unflatten(0, (-1, k)).sum(1)
    return x.new_zeros(x.shape[0], y.shape[1]).index_add(0, rows.token, y)


class Permute(torch.autograd.Function):
    """`x[order]` whose gradient is `grad[inverse]`: a gather both ways, where indexing would scatter with atomics."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        """`[R, D] -> [R, D]`."""
        ctx.save_for_backward(inverse)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """Gather back."""
        return grads[0].index_select(0, ctx.saved_tensors[0]), None, None


class AddBias(torch.autograd.Function):
    """`x + bias[expert]` for sorted rows; the gradient of the bias is a grouped product with ones, not a scatter."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, expert: Tensor, ends: Tensor) -> Tensor:
        """`[R, D]` rows, `[E, D]` biases, `[R]` experts, `[E]` ends of their rows: `[R, D]`."""
        ctx.save_for_backward(ends)
        return x + bias.index_select(0, expert)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Sum the rows of each expert."""
        grad = grads[0].contiguous()
        ones = grad.new_ones(grad.shape[0], 8).t()  # one row would do, but strides must be multiples of 16 bytes
        return grad, F.grouped_mm(ones, grad, offs=ctx.saved_tensors[0])[:, 0], None, None


BULK_FORMS: dict[str, Callable[..., Tensor]] = {"dense": dense, "grouped": grouped, "padded": padded}
