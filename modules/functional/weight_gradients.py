"""Gradients of weights that a loop over time uses at every step, in one product behind the loop.

Automatic differentiation adds up one product per step, and as many passes over a tensor of the weight's size: with few
rows a step they cost more than all else of the loop's backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Deferred(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, added: Tensor, weight: Tensor, inputs: list[Tensor], dtype: torch.dtype) -> Tensor:
        ctx.inputs, ctx.dtype, ctx.weight_dtype = inputs, dtype, weight.dtype
        return added.view_as(added)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        weight = None
        if ctx.needs_input_grad[1]:
            over, x = grad.to(ctx.dtype), torch.stack(ctx.inputs).to(ctx.dtype)
            if x.ndim == 4:  # blocks side by side, [T, G, B, ...]
                over, x = over.transpose(0, 1), x.transpose(0, 1)
            weight = (over.flatten(-3, -2).mT @ x.flatten(-3, -2)).to(ctx.weight_dtype)
        return grad, weight, None, None


def defer_weight_gradient(added: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Prepare a loop over `y[t] = added[t] + x[t] @ weight.mT`, whose inputs `x[t]` come out of earlier steps.

    Inside the loop, use what is returned, and append every `x[t]`, detached, to the list. Gradients are those of the
    plain loop. What is compiled as a whole keeps the plain loop: a compiler sees all products at once.

    Args:
        added: `[T, B, D]`, such as the part of the layer that sees inputs known before the loop, or its bias.
        weight: `[D, F]`.

    Layers of `G` blocks have `added` `[T, G, B, D]`, `weight` `[G, D, F]` and inputs `[G, B, F]`.

    Returns:
        What to add `[T, B, D]`, the weight `[D, F]` to multiply with, and the list of inputs `[B, F]`. Under autocast
        the weight is cast once, not at every step.
    """
    inputs: list[Tensor] = []
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return added, weight, inputs
    kind = weight.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    return _Deferred.apply(added, weight, inputs, dtype), weight.detach().to(dtype), inputs
